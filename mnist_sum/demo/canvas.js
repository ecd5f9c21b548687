// gradio runs this once the canvas is there. element: its HTML. props.value: the drawing as a PNG or the
// photograph as a JPEG data URL, "" while there is none, or why there is none; the server sees every change.
const LONGEST = 2000;  // pixels of a photograph's longer side
const canvas = element.querySelector("canvas"), pen = canvas.getContext("2d");
let last = null, due = null, photograph = false;

function paper(width, height) {
    clearTimeout(due);
    last = due = null;
    [canvas.width, canvas.height] = [width, height];  // this clears it, too
    pen.fillStyle = "white";
    pen.fillRect(0, 0, width, height);
}

function clear() {
    paper(480, 480);
    canvas.classList.toggle("photograph", photograph = false);
    props.value = "";
}

function send() {
    due = null;
    props.value = canvas.toDataURL();
}

function draw(event) {
    const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    pen.lineWidth = 24;
    pen.lineCap = pen.lineJoin = "round";
    pen.beginPath();
    pen.moveTo(...(last ?? [x - 0.1, y]));  // a line of no length leaves no dot
    pen.lineTo(x, y);
    pen.stroke();
    last = [x, y];
    due ??= setTimeout(send, 200);  // by then a new stroke is more than a dot
}

// The browser decodes the file, whatever its format, and turns it as its EXIF data says. Only the picture
// leaves the page, scaled down; the file is not uploaded.
async function show(file) {
    clear();
    try {
        const picture = await createImageBitmap(file, { imageOrientation: "from-image" });
        const scale = Math.min(1, LONGEST / Math.max(picture.width, picture.height));
        paper(Math.ceil(scale * picture.width), Math.ceil(scale * picture.height));
        pen.imageSmoothingQuality = "high";
        pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
        canvas.classList.toggle("photograph", photograph = true);
        props.value = canvas.toDataURL("image/jpeg", 0.9);
    } catch {
        props.value = "This is no image that your browser can show; choose a JPEG or PNG file";
    }
}

canvas.onpointerdown = event => {
    if (photograph || !event.isPrimary || event.button) return;
    canvas.setPointerCapture(event.pointerId);
    last = null;
    draw(event);
};
canvas.onpointermove = event => { if (last && event.isPrimary) draw(event); };
canvas.onpointerup = canvas.onpointercancel = event => { if (event.isPrimary) last = null; };
element.querySelector("button").onclick = clear;
for (const input of element.querySelectorAll("input")) {
    input.onchange = () => {
        if (input.files.length) show(input.files[0]);
        input.value = "";  // the same file may be chosen again
    };
}
window.ondragover = event => event.preventDefault();
window.ondrop = event => {  // wherever on the page
    event.preventDefault();
    if (event.dataTransfer.files.length) show(event.dataTransfer.files[0]);
};
clear();

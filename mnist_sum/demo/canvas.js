// gradio runs this once the canvas is there. element: its HTML. props.value: the drawing as a PNG
// data URL, "" while there is none; the server sees every change of it.
const canvas = element.querySelector("canvas"), pen = canvas.getContext("2d");
let last = null, due = null;

function clear() {
    clearTimeout(due);
    last = due = null;
    pen.fillStyle = "white";
    pen.fillRect(0, 0, canvas.width, canvas.height);
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

canvas.onpointerdown = event => {
    if (!event.isPrimary || event.button) return;
    canvas.setPointerCapture(event.pointerId);
    last = null;
    draw(event);
};
canvas.onpointermove = event => { if (last && event.isPrimary) draw(event); };
canvas.onpointerup = canvas.onpointercancel = event => { if (event.isPrimary) last = null; };
element.querySelector("button").onclick = clear;
clear();

import torch

from mnist_sum.metrics import averages, batch_sums, no_sums


def logits_for(classes, count):
    return torch.nn.functional.one_hot(torch.tensor(classes), count).float()


def test_sums_count_what_was_worked_out_by_hand():
    digit, total = torch.tensor([1, 2, 3, 4]), torch.tensor([5, 6, 7, 8])
    sums = batch_sums(
        *(torch.tensor(0.5), torch.tensor(0.25)),
        *(logits_for([1, 2, 3, 0], 10), logits_for([5, 0, 0, 8], 19)),
        *(digit, total),
    )
    assert sums.tolist() == [2.0, 1.0, 3, 2, 1, 4]


def test_several_readings_count_by_the_share_that_is_right():
    digit, total, nothing = torch.tensor([1, 2]), torch.tensor([5, 6]), torch.tensor(0.0)
    digits = torch.stack([logits_for(classes, 10) for classes in ([1, 2], [1, 0], [0, 0], [1, 0])])
    sums = torch.stack([logits_for(classes, 19) for classes in ([5, 6], [0, 6], [5, 0], [5, 0])])
    assert batch_sums(nothing, nothing, digits, sums, digit, total).tolist() == [0, 0, 1, 1.25, 0.75, 2]


def test_averages_of_unequal_batches_weigh_every_case_the_same():
    sums = no_sums("cpu")
    for size, loss in ((3, 1.0), (1, 5.0)):
        digit = torch.zeros(size, dtype=torch.int64)
        right, loss = size == 3, torch.tensor(loss)
        digit_logits = logits_for([0 if right else 1] * size, 10)
        sums += batch_sums(loss, loss, digit_logits, logits_for([0] * size, 19), digit, digit)
    assert averages(sums) == {
        "digit_loss": 2.0,
        "sum_loss": 2.0,
        "digit_accuracy": 0.75,
        "sum_accuracy": 1.0,
        "joint_accuracy": 0.75,
    }

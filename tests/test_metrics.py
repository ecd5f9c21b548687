import torch

from mnist_sum.metrics import FIELDS, averages, batch_sums, no_sums


def logits_for(classes, count):
    return torch.nn.functional.one_hot(torch.tensor(classes), count).float()


def test_batch_sums_equal_those_worked_out_by_hand():
    sums = batch_sums(
        *(torch.tensor(0.5), torch.tensor(0.25)),
        *(logits_for([1, 2, 3, 0], 10), logits_for([5, 0, 0, 8], 19)),
        *(torch.tensor([1, 2, 3, 4]), torch.tensor([5, 6, 7, 8])),
    )
    assert sums.tolist() == [2.0, 1.0, 3, 2, 1, 4]


def test_a_case_of_an_ensemble_counts_by_the_fraction_of_correct_members():
    digit, total, zero = torch.tensor([1, 2]), torch.tensor([5, 6]), torch.tensor(0.0)
    digits = torch.stack([logits_for(classes, 10) for classes in ([1, 2], [1, 0], [0, 0], [1, 0])])
    sums = torch.stack([logits_for(classes, 19) for classes in ([5, 6], [0, 6], [5, 0], [5, 0])])
    assert batch_sums(zero, zero, digits, sums, digit, total).tolist() == [0, 0, 1, 1.25, 0.75, 2]


def test_averages_weigh_every_case_of_unequal_batches_the_same():
    sums = no_sums("cpu")
    for size, loss, predicted in ((3, 1.0, 0), (1, 5.0, 1)):
        target, loss = torch.zeros(size, dtype=torch.int64), torch.tensor(loss)
        logits = logits_for([predicted] * size, 10), logits_for([0] * size, 19)
        sums += batch_sums(loss, loss, *logits, target, target)
    assert averages(sums) == dict(zip(FIELDS, (2.0, 2.0, 0.75, 1.0, 0.75), strict=True))

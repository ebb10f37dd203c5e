"""``python -m tests.doctor.cases``: the score, as a table."""

import warnings

import torch

from tests.doctor.cases.case import all_cases, score, table

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(table([score(one) for one in all_cases()]))

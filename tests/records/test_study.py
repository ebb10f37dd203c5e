import pytest

from batchnorm.records import read_verdicts


def test_a_directory_without_verdicts_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected \*/verdict.json, got none in "):
        read_verdicts(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"study": "c01"}'])
def test_a_damaged_verdict_is_named(tmp_path, content):
    path = tmp_path / "c01" / "verdict.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ValueError, match=f"read_verdicts: {path} expected a verdict, got "):
        read_verdicts(tmp_path)

"""The version of the code moves with what a module does, and with nothing else."""

import sys

import pytest

from batchnorm.study.code import code_version

MODULE = (
    '"""What."""\nimport math\n\n\ndef area(radius):\n    """Of a disc."""\n    return math.pi * radius**2\n'
)


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)

    def write(text):
        (tmp_path / "some_module.py").write_text(text)
        sys.modules.pop("some_module", None)
        code_version.cache_clear()
        return code_version("some_module")

    yield write
    code_version.cache_clear()


def test_words_and_layout_do_not_count(module):
    version = module(MODULE)
    assert module(MODULE.replace("Of a disc.", "Of a round disc.")) == version
    assert module(MODULE.replace("**2", " ** 2  # squared")) == version


def test_a_changed_computation_counts(module):
    assert module(MODULE) != module(MODULE.replace("**2", "**3"))


def test_what_is_imported_from_this_package_counts(module, monkeypatch):
    importing = MODULE.replace("import math", "import math\nfrom batchnorm.models import build")
    version = module(importing)
    assert version != module(MODULE)
    from batchnorm.study import code

    dump = code.ast.dump

    def changed(tree):
        return dump(tree) + ("changed" if "class LeNet" in code.ast.unparse(tree) else "")

    monkeypatch.setattr(code.ast, "dump", changed)
    assert module(importing) != version


def test_the_kernels_count_through_ops(module, monkeypatch):
    importing = MODULE.replace("import math", "import math\nfrom batchnorm.nn import BatchNorm1d")
    version = module(importing)
    from batchnorm.study import code

    read = code.Path.read_text
    monkeypatch.setattr(
        code.Path, "read_text", lambda self, **kw: read(self, **kw) + ("//" if self.suffix == ".cpp" else "")
    )
    assert module(importing) != version

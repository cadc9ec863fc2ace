"""Values of a config are compared with the constructors' types; an error is one sentence."""

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal, TypedDict, Unpack

import pytest
import torch
from annotated_types import Ge
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from torch import nn

from robustsmooth.annotations import check, signature, words
from robustsmooth.instantiation import check_parts, instantiate

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("annotation", "allowed", "refused"),
    [
        (bool, [True, False], [0, 1, "no", "off", "true", None, 1.0]),
        (int, [0, -3], [True, 1.0, "1", None, NAN, "8/255"]),
        (float, [0.5, 1, "8/255", "-1/2"], [True, "abc", "1/0", "no", None, NAN, INF, [1.0]]),
        (str, ["", "no"], [1, True, None, ["a"]]),
        (int | None, [None, 1], ["null", 1.5]),
        (Literal["l2", "linf"], ["l2"], ["l1", 2, None]),
        (int | Literal["auto"], [3, "auto"], ["outo", True, 3.0]),
        (bool | Literal["auto"], [True, "auto"], ["maybe", 1]),
        (Sequence[float] | None, [None, [], [1, "1/4"]], ["abc", [0, "x"], [NAN], {"a": 1}, 0.5]),
        (Sequence[int] | int | str | None, [[1], 1, "0:5", None], [[1.5], 1.5, True]),
        (Mapping[str, Sequence[float]], [{"mean": [0.5]}], [{"mean": 0.5}, [0.5], None]),
        (Annotated[int, Ge(1)], [1], [0, -1, True]),
        (float | torch.Tensor, [0.1, torch.zeros(1)], ["a", None]),
        (nn.Module, [nn.Identity()], [None, "resnet", {}, 3]),
        (Callable[[int], int], [len], ["len"]),
        (tuple[float, float], [[0.9, 0.99]], [[0.9], [0.9, "b"]]),
    ],
    ids=str,
)
def test_values_of_another_type_are_refused(annotation, allowed, refused):
    for value in allowed:
        check(value, annotation)
    for value in refused:
        with pytest.raises(ValueError, match=r"must be .*, got "):
            check(value, annotation)


def test_fractions_are_numbers_where_numbers_are_wanted():
    assert check("8/255", float) == 8 / 255
    assert check([0.5, " 1 / 4"], Sequence[float] | None) == [0.5, 0.25]
    assert check("8/255", str) == "8/255"
    assert check({"std": ["1/2"]}, Mapping[str, Sequence[float]]) == {"std": [0.5]}


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (Annotated[int, Ge(1)] | None, "an integer of at least 1 or null"),
        (Sequence[float] | None, "a list of finite numbers or null"),
        (bool | Literal["auto"], "true or false or auto"),
        (float | torch.Tensor, "a finite number"),
        (nn.Module | None, "an object {_target_: ...} or null"),
        (Mapping[str, int], "a mapping {name: value}"),
    ],
    ids=str,
)
def test_annotations_in_words(annotation, said):
    assert words(annotation) == said


class Settings(TypedDict, total=False):
    """Passed by name."""

    seed: int


class Base:
    """Takes settings by name."""

    def __init__(self, sigma: float, **settings: Unpack[Settings]) -> None:
        if sigma < 0:
            raise ValueError(f"`sigma` must be at least 0, got {sigma}")
        self.sigma, self.seed = sigma, settings.get("seed", 0)


class Own(Base):
    """Passes unknown settings to the base class, as methods of users do."""

    def __init__(self, *args, weight: "float" = 1.0, part: "Unknown | None" = None, **kwargs) -> None:  # noqa: F821
        super().__init__(*args, **kwargs)
        self.weight, self.part = weight, part


def test_signatures_of_base_classes_are_included():
    found = signature(Own)
    assert set(found.annotations) == {"weight", "part", "sigma", "seed"}
    assert found.annotations["weight"] is float
    assert (found.required, found.is_open) == ({"sigma"}, False)
    assert signature(dict).is_open


def test_what_another_packages_class_passes_to_its_base_class_is_not_asked_for():
    """Lightning's logger passes `root_dir` itself."""
    from pytorch_lightning.loggers import TensorBoardLogger

    assert signature(TensorBoardLogger).required == {"save_dir"}


def config(**keys):
    return OmegaConf.create({"method": {"_target_": f"{__name__}.Own", "sigma": 0.25, **keys}, "half": "1/2"})


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"sigma": "no"}, "`method.sigma` must be a finite number, got 'no'"),
        ({"sigma": -1}, "`method.sigma` must be at least 0, got -1"),
        ({"seed": 1.5}, "`method.seed` must be an integer, got 1.5"),
        ({"weiht": 1}, "there is no setting `method.weiht`; did you mean method.weight? (Own has "),
        (
            {"_target_": f"{__name__}.Owm"},
            f"`method._target_` names {__name__}.Owm, which cannot be imported",
        ),
        ({"part": {"_target_": f"{__name__}.Base"}}, "`method.part.sigma` must be given: Base needs it"),
        (
            {"part": [{"_target_": f"{__name__}.Base", "sigma": "a"}]},
            "`method.part[0].sigma` must be a finite",
        ),
        ({"part": {"_target_": f"{__name__}.Base", "sigma": -2}}, "`method.part.sigma` must be at least 0"),
    ],
)
def test_an_error_is_one_sentence_with_the_key_that_was_typed(keys, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        instantiate(config(**keys).method)
    assert str(caught.value).startswith(sentence)


def test_a_part_that_is_given_elsewhere_is_named_where_it_is_given():
    """As `method.network`, which is `${model}`: the user typed model.normalization."""
    parts = {"model": {"inner": {"_target_": f"{__name__}.Base", "sigma": -2}}}
    linked = OmegaConf.merge(config(part={"network": "${model}"}), parts)
    with pytest.raises(ValueError, match=r"^`model\.inner\.sigma` must be at least 0"):
        instantiate(linked.method)


def test_fractions_reach_the_constructor_also_through_an_interpolation():
    own = instantiate(config(sigma="${half}", weight="1/4").method)
    assert (own.sigma, own.weight) == (0.5, 0.25)


def test_arguments_that_the_command_gives_need_no_key():
    assert instantiate({"_target_": f"{__name__}.Own"}, sigma=1.0).sigma == 1.0
    partial = instantiate({"_target_": f"{__name__}.Own", "sigma": None, "_partial_": True})
    assert partial(sigma=2.0).sigma == 2.0
    assert isinstance(partial, functools.partial)
    assert instantiate(None) is None


def test_a_partial_may_lack_arguments_that_are_given_later():
    """As `python -m robustsmooth.measure` builds its measurement: the folder comes last."""
    node = {"_target_": "robustsmooth.evaluation.InferenceTime", "sigma": 0.25}
    later = instantiate(node, _partial_=True)
    assert later(folder="nowhere").sigma == 0.25


def test_objects_in_a_config_are_not_changed():
    modules = {"_target_": f"{__name__}.Own", "sigma": 1, "part": [nn.Identity()]}
    assert isinstance(instantiate(modules).part[0], nn.Identity)
    assert check_parts(config(weight="1/4").method)["weight"] == 0.25


def test_other_failures_keep_their_traceback():
    with pytest.raises(InstantiationException) as caught:
        instantiate({"_target_": "builtins.int", "_args_": [[]]})
    assert isinstance(caught.value.__cause__, TypeError)


def test_a_number_may_be_infinite_where_its_annotation_says_so():
    allowed = Annotated[float, "or infinite"]
    assert check(math.inf, allowed) == math.inf
    assert check("8/255", allowed) == 8 / 255
    for wrong in (math.nan, -math.inf, "far", True):
        with pytest.raises(ValueError, match="must be a finite number or infinite"):
            check(wrong, allowed)
    with pytest.raises(ValueError, match="must be a finite number"):
        check(math.inf, float)

"""What a model may be called."""

import pytest

from tokenworks.hub.policy import check_model_name
from tokenworks.kit.errors import InvalidRequestError


@pytest.mark.parametrize("name", ["default/SmolLM2-135M-Instruct", "a/b", "my.team/x_y.z"])
def test_good_names(name: str) -> None:
    assert check_model_name(name) == name


BAD = ["", "a", "a/", "/b", "a/b/c", "A/b", "a/..", "a/b..c", "../a", "a/b\n", "a/" + "b" * 97]


@pytest.mark.parametrize("name", BAD)
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_model_name(name)
    assert caught.value.param == "name"

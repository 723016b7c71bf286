"""Pull requests over the APIs of GitHub and GitLab, at servers that are neither."""

from __future__ import annotations

from typing import Any

import pytest

from answers import answers
from shipline.api import open_client
from shipline.deliver.gitops.pull_request import Forge
from shipline.errors import RegistryError


@pytest.mark.parametrize("wrong", [{"message": "x"}, "<html>", 1, [{}], [None]])
@pytest.mark.parametrize(
    ("name", "api", "path"),
    [
        ("GitHub", "", "/repos/team/app/pulls"),
        ("GitLab", "/api/v4", "/api/v4/projects/team%2Fapp/merge_requests"),
    ],
)
def test_what_is_no_answer_of_the_api_is_an_error_that_names_it(
    wrong: Any, name: str, api: str, path: str
) -> None:
    with answers() as server, open_client() as client:
        server.documents = {path: wrong}
        forge = Forge(client.http, server.url + api, "team/app", "token")
        with pytest.raises(RegistryError, match=f"{server.url}{api} is not the API of {name}"):
            forge.propose("head", "main", "title", "body")

"""GET / and /web/…: the files of the page, and how little a browser may do with them."""

from __future__ import annotations

import re

import pytest
from served import Client, serve

from gptwo.serve.routes.page import WEB

FILES = sorted(path.relative_to(WEB).as_posix() for path in WEB.rglob("*") if path.is_file())


def test_the_page_and_every_file_of_it_are_given_as_what_they_are() -> None:
    types = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".json": "application/json"}

    async def body(client: Client) -> None:
        assert (await client.get("/")).body == (WEB / "index.html").read_bytes()
        for name in FILES:
            reply = await client.get(f"/web/{name}")
            assert (reply.status, reply.body) == (200, (WEB / name).read_bytes()), name
            expected = types.get("." + name.rpartition(".")[2], "image/svg+xml")
            assert reply.headers["content-type"].partition(";")[0] == expected
            assert reply.headers["x-content-type-options"] == "nosniff"

    serve(body)


def test_what_it_loads_is_there_and_its_own() -> None:
    async def body(client: Client) -> None:
        page = (await client.get("/")).body.decode()
        for path in re.findall(r'(?:src|href)="([^"#]+)"', page):
            assert path.startswith("/web/")
            assert (await client.get(path)).status == 200
        assert not re.search(r"<script(?![^>]* src=)|<style| style=| on[a-z]+=", page), (
            "the policy forbids it"
        )

    serve(body)


def test_a_browser_loads_nothing_from_elsewhere_and_shows_it_in_no_frame() -> None:
    async def body(client: Client) -> None:
        for path in ("/", "/web/app.js"):
            policy = (await client.get(path)).headers["content-security-policy"].split("; ")
            assert "default-src 'self'" in policy
            assert "frame-ancestors 'none'" in policy
            assert not [part for part in policy if "unsafe" in part or "http" in part or "*" in part]

    serve(body)


def test_an_unchanged_file_is_not_sent_again() -> None:
    async def body(client: Client) -> None:
        first = await client.get("/web/app.js")
        again = await client.get("/web/app.js", headers={"if-none-match": first.headers["etag"]})
        assert (again.status, again.body) == (304, b"")
        changed = await client.get("/web/app.js", headers={"if-none-match": '"another"'})
        assert changed.status == 200

    serve(body)


@pytest.mark.parametrize(
    "name",
    ["", "no.js", "../routes/page.py", "..%2froutes%2fpage.py", "%2fetc/passwd", "panels", "panels/", "%00"],
)
def test_nothing_else_is_given(name: str) -> None:
    async def body(client: Client) -> None:
        reply = await client.get(f"/web/{name}")
        assert (reply.status, reply.error["code"]) == (404, "route_not_found")

    serve(body)


def test_it_is_there_while_the_model_loads() -> None:
    async def body(client: Client) -> None:
        client.serving.ready = False
        assert (await client.get("/")).status == (await client.get("/web/app.js")).status == 200
        client.serving.ready = True

    serve(body)

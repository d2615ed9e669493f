"""The log of services: what a line looks like."""

import io
import json

from kspacesr_rt.services.log import Log


def test_what_is_not_there_is_none_in_text_and_null_in_json():
    """`None` is Python's word, and no operator's."""
    text, objects = io.StringIO(), io.StringIO()
    Log(text).write("watching", poll=None, settle=10.0, hint="a b")
    Log(objects, as_json=True).write("watching", poll=None)
    assert text.getvalue().endswith(' event=watching poll=none settle=10.0 hint="a b"\n')
    assert json.loads(objects.getvalue())["poll"] is None

"""mos/cli/doctor_cmd.py: names, what is printed. Findings: test_doctor.py."""
import json

import pytest
from command import mos


@pytest.mark.parametrize("what", ["a:b:c", "a:", "", "lo:lo"])
def test_wrong_names_are_told(what):
    ran = mos("doctor", what)
    assert ran.returncode == 2 and "name one interface, or two different ones" in ran.stderr


def test_what_is_printed_and_what_is_json_say_the_same():
    plain, quiet, told = mos("doctor", "nonesuch"), mos("doctor", "nonesuch", "-q"), mos("doctor", "nonesuch", "--json")
    assert plain.returncode == quiet.returncode == told.returncode == 2
    assert "STOP    there is no interface called nonesuch; there are " in quiet.stdout
    assert plain.stdout.endswith("it does not run so\n") and "ok    " not in quiet.stdout
    findings = json.loads(told.stdout)["findings"]
    assert findings[0]["level"] == "stop" and all(f["text"] in plain.stdout for f in findings)

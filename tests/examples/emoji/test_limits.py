"""What the report says of aims that students miss, from its own figures."""

from types import SimpleNamespace

from examples.emoji.limits import limits

TABLE = {  # evaluations, FD, pictures a second
    "real pictures": (None, 0.0, None), "teacher": (40, 0.1, 10.0), "ddim, not guided": (4, 0.3, 50.0),
    "ddim, guided": (4, 0.5, 60.0), "`near`": (4, 0.12, 90.0), "`far`": (4, 0.2, 40.0),
}  # fmt: skip


def told(**changed) -> str:
    models = [SimpleNamespace(name=name, evaluations=count, frechet=(distance, 0.01), images_per_second=rate)
              for name, (count, distance, rate) in (TABLE | changed).items()]  # fmt: skip
    return "\n".join(limits(models, 32_000, 32))


def test_what_a_student_misses_is_set_beside_what_is_possible():
    text = told()
    assert "FD of `far`: each student has had 32,000 samples, 1,000 steps of 32" in text
    assert "enough for `near`" in text and "is at 0.50" in text
    # 100 ms for 40 evaluations, 20 ms for 4: 2.2 ms each, and 11.1 ms that stay
    for part in ("20.0 ms", "100.0 ms", "2.2 ms for each", "11.1 ms", "5.0 times", "`far` takes 25.0 ms"):
        assert part in text, part
    assert "nothing to be ahead in" not in text
    assert "nothing to be ahead in" in told(**{"ddim, not guided": (4, 0.09, 50.0)})


def test_nothing_is_said_where_every_aim_is_reached():
    assert told(**{"`far`": (4, 0.12, 90.0)}) == ""

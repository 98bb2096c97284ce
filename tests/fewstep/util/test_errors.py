import pytest

from fewstep.util.errors import CorruptData, FewstepError, NonFinite, SettingsError, from_json, laid_at, to_json


@pytest.mark.parametrize("name", ["a\nb", "a\r\nb", "\x1b[31mred", "a\u2028b", "a\tb", "\ud800"])
def test_a_name_in_a_message_stays_in_its_line(name):
    error = CorruptData(f"{name}: damaged")
    assert str(error).isprintable() and str(error).endswith(": damaged")


def test_several_problems_are_a_line_each_and_the_first_says_where():
    with pytest.raises(SettingsError) as caught, laid_at("recipe x"):
        raise SettingsError("lr: negative", "ba\ntch: 0", hint="correct both")
    assert str(caught.value).split("\n") == ["recipe x: lr: negative", "ba\\ntch: 0"]
    assert caught.value.hint == "correct both" and isinstance(caught.value, FewstepError)


def test_an_error_goes_to_another_process_as_it_is():
    error = NonFinite("teacher: NaN", step=3, term="denoising", role="student", hint="lower the rate")
    carried = from_json(to_json(error))
    assert type(carried) is NonFinite and carried.__dict__ == error.__dict__ and str(carried) == str(error)


def test_an_error_of_a_kind_of_elsewhere_keeps_its_words():
    class Elsewhere(FewstepError):
        pass

    carried = from_json(to_json(Elsewhere("lost", hint="look")))
    assert type(carried) is FewstepError and (str(carried), carried.hint) == ("lost", "look")

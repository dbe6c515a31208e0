import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from radvqa.evaluate.normalise import answer_parts, normalise_answer


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Yes", "yes"),
        ("  Upper\tLeft \n Lobe. ", "upper left lobe"),
        ("ＭＲＩ", "mri"),
        ("ﬁbrosis", "fibrosis"),
        ("X-Ray", "xray"),
        ("x ray", "xray"),
        ("Chest X-rays", "chest xrays"),
        ("max ray", "max ray"),
        ("U-shaped", "u shaped"),
        ("Right Lung,Upper Left", "right lung upper left"),
        ("Crohn’s disease", "crohns disease"),
        ("'yes'", "yes"),
        ("3.5 cm", "3.5 cm"),
        ("3.5cm.", "3.5cm"),
        (".5", "0.5"),
        ("2.", "2"),
        ("1,000,000 cells", "1000000 cells"),
        ("-50 HU", "-50 hu"),
        ("\N{MINUS SIGN}50 HU", "-50 hu"),
        ("(-.5)", "-0.5"),
        ("L4-5", "l4 5"),
        ("< 5 mm", "<5 mm"),
        ("≤5, >= 3, (> 2)", "<=5 >=3 >2"),
        ("<b>5</b>", "b 5 b"),
        ("50 % of it.", "50% of it"),
        ("HER2+", "her2+"),
        ("HER2-.", "her2-"),
        ("left- right", "left right"),
        ("2 + 2 - 1", "2 2 1"),
        ("1/2", "1/2"),
        ("2½", "2 1/2"),
        ("and/or", "and or"),
        ("10² cm²", "10^2 cm^2"),
        ("2.5-3.5", "2.5 3.5"),
        ("The lung", "lung"),
        ("an effusion in a lung", "effusion in lung"),
        ("Hepatitis A", "hepatitis a"),
        ("Type A dissection", "type dissection"),
        ("T2", "t2"),
        ("None", "none"),
        ("", ""),
        (" .?! ", ""),
        ("The", ""),
    ],
)
def test_normal_form(text, normal):
    assert normalise_answer(text) == normal


@pytest.mark.parametrize("trap", ["normal", "not", "know", "note", "diagnosis", "nodule", "none"])
def test_words_that_contain_no_stay_words(trap):
    assert normalise_answer(trap) == trap


@settings(deadline=None)
@given(
    st.text()
    | st.text(alphabet="aAtTheEnNxXrRyY019.,-'’\N{MINUS SIGN}ʼ ")
    | st.text(alphabet="aeŉßİΐ\u0301\u0345가'½²ﬁ.-1")
)
@example("a 'a a")
@example("Aʼ’A")
@example("ᄀ'ᅡ")
@example("the-.5,000,")
def test_normalising_twice_changes_nothing(text):
    once = normalise_answer(text)
    assert normalise_answer(once) == once


@settings(deadline=None)
@given(st.lists(st.text(alphabet="abc XY-.1"), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_order_of_a_comma_list_means_nothing(members, random):
    shuffled = random.sample(members, len(members))
    assert answer_parts(", ".join(members)) == answer_parts(" , ".join(shuffled))


def test_members_of_a_comma_list():
    assert answer_parts("Liver, the Kidney,") == ("kidney", "liver")
    assert answer_parts("Left Lung, Right") != answer_parts("Right Lung, Left")
    assert answer_parts("lung, lung") != answer_parts("lung")
    assert answer_parts("1,000") == ("1000",)
    assert answer_parts("2,100, 35") == ("2100", "35")
    assert answer_parts("1000,200") == ("1000", "200")
    assert answer_parts(" , ") == ()

"""Verifiers of numbers, mathematics and texts: tables of cases, some of them hostile, and
properties."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.tasks.answers import boxed, same_text, tagged
from unmask.tasks.mathematics import final_number, number, same_mathematics, same_number

RIGHT_NUMBERS = [  # completion, truth
    ("1000", "1,000"),
    ("1,000", "1000"),
    ("1,000.00", "1000"),
    ("The answer is 1,234,567.", "1234567"),
    ("$1,000", "1000"),
    ("She pays $18.", "18"),
    (r"She pays \$18", "18"),
    ("18 dollars", "18"),
    ("18.0", "18"),
    ("18.00 dollars", "18"),
    ("€ 18", "18"),
    ("£1,500.50", "1500.5"),
    ("-5", "-5"),
    ("−5", "-5"),
    ("the change is -5 degrees", "-5"),
    ("-$5", "-5"),
    ("$-5", "-5"),
    ("(-5)", "-5"),
    ("x = -5", "-5"),
    ("x=-5", "-5"),
    ("- 5", "-5"),
    ("+5", "5"),
    ("9 - 4 = 5", "5"),
    ("50%", "50"),
    (r"50\%", "50"),
    ("0.5", "1/2"),
    (".5", "0.5"),
    ("1/2", "0.5"),
    (r"\frac{1}{2}", "0.5"),
    (r"\boxed{\dfrac{3}{4}}", "0.75"),
    (r"\boxed{42}", "42"),
    (r"so \boxed{42} and not 43", "42"),
    (r"\boxed{1} then \boxed{42}", "42"),
    (r"\boxed{\$1,000}", "1000"),
    (r"\boxed{1{,}000}", "1000"),
    (r"\boxed{1\,000}", "1000"),
    (r"\boxed{42\text{ apples}}", "42"),
    (r"\boxed{x = 42}", "42"),
    ("<answer>42</answer>", "42"),
    ("<answer> 42 </answer> That is 6 times 7.", "42"),
    ("<answer>1</answer> or rather <answer>42</answer>", "42"),
    ("<answer>42", "42"),
    ("<ANSWER>42</ANSWER>", "42"),
    (r"<answer>\boxed{42}</answer>", "42"),
    (r"<reasoning>\boxed{7}</reasoning><answer>\boxed{42} of 50</answer>", "42"),
    ("6*7 = 42\n#### 42", "42"),
    ("#### 42\nThanks for 3 questions", "42"),
    ("#### 1,042", "1042"),
    ("#### $42.00", "42"),
    ("####42", "42"),
    ("####\n42", "42"),
    ("#### 7\n#### 42", "42"),
    ("In 2024 they had 42", "42"),
    ("42 apples.", "42"),
    ("**42**", "42"),
    ("$42$", "42"),
    ("1e3", "1000"),
    ("007", "7"),
    ("3.", "3"),
]
WRONG_NUMBERS = [
    ("1", "1,000"),
    ("1,000", "1"),
    ("000", "1,000"),
    ("1,0000", "1000"),
    ("5", "-5"),
    ("-5", "5"),
    ("5.5", "5"),
    ("0.50001", "0.5"),
    ("42 43", "42"),
    ("", "42"),
    ("forty-two", "42"),
    (r"\boxed{}", "42"),
    ("<answer></answer> 42", "42"),
    ("<answer>no idea</answer>42", "42"),
    (r"\boxed{41} 42", "42"),
    ("the answer is 42 or 43", "42"),
    ("1/0", "0"),
    ("nan", "42"),
    ("inf", "42"),
    ("<answer>42</answer><answer>43</answer>", "42"),
    ("4 2", "42"),
    ("4.2", "42"),
    ("it takes 3-4", "4"),
    ("a total of 7-2", "2"),
    ("12,34", "34"),
    ("at 5:30", "30"),
    ("42e9999999999", "42"),
    ("１２", "13"),
    ("42" * 2000, "42"),
    (r"\boxed{\boxed{41}} 42", "42"),
    ("-" * 5000, "42"),
    ("{" * 5000 + r"\boxed{", "42"),
]


@pytest.mark.parametrize(("completion", "truth"), RIGHT_NUMBERS)
def test_right_numbers(completion, truth):
    assert same_number(completion, truth)


@pytest.mark.parametrize(("completion", "truth"), WRONG_NUMBERS)
def test_wrong_numbers(completion, truth):
    assert not same_number(completion, truth)


@given(
    st.integers(-(10**15), 10**15),
    st.sampled_from(
        [
            "{}",
            "{:,}",
            "{}.0",
            "{:,}.00",
            "it is {}",
            "#### {:,}",
            "<answer>{}</answer>",
            "so ${:,}$",
            "{}\n",
        ]
    ),
)
def test_a_written_integer_is_itself_and_not_its_neighbour(value, form):
    assert final_number(form.format(value)) == value
    assert same_number(form.format(value), str(value)) and not same_number(
        form.format(value), str(value + 1)
    )


@given(
    st.decimals(
        allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=4
    )
)
def test_a_written_decimal_is_itself(value):
    assert number(f"about {value:f} m") == Fraction(value)


@given(st.text(max_size=300))
def test_any_text_has_a_verdict(text):
    same_number(text, "42")
    same_text(text, "42")


@given(st.text(alphabet="ab{}\\$ ", max_size=40).filter(lambda s: s.count("\\") == 0))
def test_a_box_gives_back_what_was_put_in(text):
    depth = 0
    for char in text:
        depth += {"{": 1, "}": -1}.get(char, 0)
        if depth < 0:
            return
    if depth == 0:
        assert boxed(rf"a \boxed{{{text}}} b") == text
        assert tagged(f"<answer>{text}</answer>") == text.strip()


@pytest.mark.parametrize(
    ("completion", "truth", "right"),
    [
        ("yes", "yes", True),
        (" yes\n", "yes", True),
        ("<answer>yes</answer>", "yes", True),
        ("well... <answer>\nyes </answer> indeed", "yes", True),
        (r"\boxed{yes}", "yes", True),
        ("1 2\n3 4", "1 2 3 4", True),
        ("Yes", "yes", False),
        ("yes no", "yes", False),
        ("", "yes", False),
        ("<answer>no</answer> yes", "yes", False),
    ],
)
def test_texts(completion, truth, right):
    assert same_text(completion, truth) == right


RIGHT_MATHEMATICS = [
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{\frac12}", r"\frac{1}{2}"),
    (r"\boxed{0.5}", r"\frac{1}{2}"),
    (r"\boxed{1/2}", r"\frac{1}{2}"),
    (r"\boxed{\dfrac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{1,000}", "1000"),
    (r"\boxed{10^3}", "1000"),
    (r"\boxed{\sqrt{8}}", r"2\sqrt{2}"),
    (r"\boxed{2\sqrt2}", r"2\sqrt{2}"),
    (r"\boxed{x^2+2x+1}", r"(x+1)^2"),
    (r"\boxed{(x+1)^2}", r"x^2 + 2x + 1"),
    (r"\boxed{x + y}", "y+x"),
    (r"\boxed{-\frac{3}{4}}", r"\frac{-3}{4}"),
    (r"\boxed{(1,2)}", "(1, 2)"),
    (r"\boxed{\left(1, 2\right)}", "(1,2)"),
    (r"\boxed{\left(3, \frac{\pi}{2}\right)}", r"\left( 3, \frac{\pi}{2} \right)"),
    (r"\boxed{[0,1)}", "[0, 1)"),
    (r"\boxed{(-\infty, 2]}", r"(-\infty,2]"),
    (r"\boxed{\{1,2,3\}}", r"\{3,2,1\}"),
    (r"\boxed{x=5}", "5"),
    (r"\boxed{5}", "x=5"),
    (r"\boxed{5\%}", r"5\%"),
    (r"\boxed{90^\circ}", "90"),
    (r"\boxed{\$5}", "5"),
    (r"\boxed{5\text{ cm}}", "5"),
    (r"\boxed{\pi}", r"\pi"),
    (r"\boxed{2\pi r}", r"2 \pi r"),
    (r"\boxed{\text{Evelyn}}", r"\text{Evelyn}"),
    (
        r"\boxed{\begin{pmatrix}1&2\\3&4\end{pmatrix}}",
        r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
    ),
    (r"\boxed{3+4i}", "4i+3"),
    (r"\boxed{\log_2 8}", "3"),
    (r"\boxed{11_2}", "11_2"),
    (r"The answer is $\boxed{7}$.", "7"),
    (r"\boxed{1} no, \boxed{7}", "7"),
    (r"<answer>7</answer>", "7"),
    (r"<answer>\frac{14}{2}</answer>", "7"),
    (r"<answer>$\boxed{7}$</answer>", "7"),
    ("#### 7", "7"),
    ("The final answer is $7$.", "7"),
    ("so it is 7", "7"),
    (r"\boxed{ 7 }", "7"),
    (r"\boxed{7.}", "7"),
    (r"\boxed{7.0}", "7"),
    (r"\fbox{7}", "7"),
    (r"\boxed{6!}", "720"),
    (r"\boxed{\binom{5}{2}}", "10"),
    (r"\boxed{2^{10}}", "1024"),
    (r"\boxed{\sin(\pi/6)}", r"\frac{1}{2}"),
]
WRONG_MATHEMATICS = [
    (r"\boxed{\frac{1}{3}}", r"\frac{1}{2}"),
    (r"\boxed{0.33}", r"\frac{1}{3}"),
    (r"\boxed{1}", "1000"),
    (r"\boxed{(2,1)}", "(1,2)"),
    (r"\boxed{(0,1)}", "[0,1]"),
    (r"\boxed{\{1,2\}}", r"\{1,2,3\}"),
    (r"\boxed{x^2+1}", "(x+1)^2"),
    (r"\boxed{-5}", "5"),
    (r"\boxed{}", "5"),
    (r"\boxed{5, 6}", "5"),
    (r"\boxed{\text{no}}", r"\text{yes}"),
    ("", "5"),
    ("I do not know", "5"),
    (r"\boxed{6} 5", "5"),
    (r"<answer>6</answer> \boxed{5}", "5"),
    (r"\boxed{5", "7"),
    (r"\boxed{\frac{1}{0}}", "5"),
    (r"\boxed{x}", "y"),
    (r"\boxed{__import__('os').getpid()}", "5"),
    (r"\boxed{\input{/etc/passwd}}", "5"),
    (r"\boxed{" + "(" * 2000 + "}", "5"),
    (r"\boxed{" + "1+" * 900 + "}", "5"),
    ("yes\n", "no"),
]


@pytest.mark.parametrize(("completion", "truth"), RIGHT_MATHEMATICS)
def test_right_mathematics(completion, truth):
    assert same_mathematics(completion, truth)


@pytest.mark.parametrize(("completion", "truth"), WRONG_MATHEMATICS)
def test_wrong_mathematics(completion, truth):
    assert not same_mathematics(completion, truth)


@given(st.integers(-999, 999), st.integers(1, 99))
def test_fractions_equal_themselves_and_not_their_neighbours(above, below):
    assert same_mathematics(rf"\boxed{{\frac{{{above}}}{{{below}}}}}", f"{above}/{below}")
    assert not same_mathematics(rf"\boxed{{\frac{{{above}}}{{{below}}}}}", f"{above + 1}/{below}")

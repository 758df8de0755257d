# ruff: noqa: E501  (a table reads better without breaks)
r"""Pairs of mathematical answers, (gold, answer): more than 200 that mean the same and
more than 200 near misses that do not.

What counts as the same, where conventions differ: a unit, a currency sign or a percent sign beside the same number is
ignored; a decimal equals a fraction when it agrees to six places; a bare list equals the tuple or open interval with
the same two entries in the same order or a set of them; a variable before the value (`x = 5`) is ignored; a base
subscript may be left out but not changed; a choice letter may stand in parentheses.
"""

from __future__ import annotations

SAME: list[tuple[str, str]] = [
    # numbers: separators, signs, zeros, exponents
    ("1000", "1,000"), ("1000", "1{,}000"), ("1000", r"1\,000"), ("12345", "12,345"), ("1234567", "1,234,567"),
    ("18", "18.0"), ("18", "18."), ("18", "+18"), ("18", "018"), ("-7", "-7.00"), ("-7", "- 7"), ("0", "-0"),
    ("0.5", ".5"), ("0.50", "0.5"), ("3.14", "3.140"), ("1000000", "10^6"), ("1000000", r"10^{6}"),
    ("1024", "2^{10}"), ("0.001", "10^{-3}"), ("4500", r"4.5 \times 10^3"), ("4500", r"4.5\cdot10^{3}"),
    ("120", "5!"), ("10", r"\binom{5}{2}"), ("3", r"\sqrt{9}"), ("2", r"\sqrt[3]{8}"), ("3", r"\log_2 8"),
    ("5", r"|-5|"), ("7", r"\frac{14}{2}"), ("1", r"\frac{3}{3}"), ("6", r"2\cdot 3"), ("6", r"2 \times 3"),
    ("17", "10+7"), ("3", r"\lfloor 3.7 \rfloor"), ("4", r"\lceil 3.2 \rceil"), ("16", "4^2"), ("16", "(-4)^2"),
    # units, currency, percent, degrees, words around
    ("5", "$5"), ("5", r"\$5"), ("5", r"\$5.00"), ("5.50", r"\$5.50"), ("40", "40%"), ("40", r"40\%"),
    (r"40\%", "40"), (r"40\%", r"40\%"), ("12", "12 apples"), ("12", r"12\text{ apples}"), ("12", r"12 \text{ cm}"),
    ("12", r"12\mbox{ inches}"), ("12", r"12\,\mathrm{m}"), ("12", r"12\text{ cm}^2"), ("90", r"90^\circ"),
    ("90", r"90^{\circ}"), (r"90^\circ", "90"), ("30", "30 degrees"), ("12", "12 square feet"), ("250", r"\$250"),
    ("1200", r"\$1,200"), ("1200", "1,200 dollars"), ("1200", r"1{,}200\text{ dollars}"), ("60", "60 mph"),
    ("2000000", "2 million"), ("24", "2 dozen eggs"), ("5", "5 miles per hour"),
    # fractions and decimals
    (r"\frac{1}{2}", "0.5"), (r"\frac{1}{2}", "1/2"), (r"\frac12", r"\frac{1}{2}"), (r"\frac{1}{2}", r"\dfrac{1}{2}"),
    (r"\frac{1}{2}", r"\tfrac{1}{2}"), (r"\frac{1}{2}", r"\frac{2}{4}"), (r"\frac{1}{2}", r"\frac{-1}{-2}"),
    (r"-\frac{1}{2}", r"\frac{-1}{2}"), (r"-\frac{1}{2}", r"\frac{1}{-2}"), (r"-\frac{1}{2}", "-0.5"),
    (r"-\frac{1}{2}", "-1/2"), (r"\frac{3}{4}", "0.75"), (r"\frac{7}{2}", "3.5"), (r"3\frac{1}{2}", r"\frac{7}{2}"),
    (r"3\frac{1}{2}", "3.5"), (r"\frac{7}{2}", r"3\frac{1}{2}"), (r"\frac{1}{3}", "0.333333"),
    (r"\frac{1}{3}", r"0.\overline{3}"), (r"\frac{1}{6}", r"0.1\overline{6}"), (r"\frac{2}{3}", "0.6666667"),
    (r"0.\overline{12}", r"\frac{4}{33}"), (r"\frac{22}{7}", "22/7"), (r"\frac{17}{50}", "0.34"),
    (r"\frac{33}{100}", "0.33"), (r"\frac{4}{3}", r"1\frac{1}{3}"), (r"\frac{a}{b}", "a/b"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"), (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
    (r"\frac{5\sqrt{6}}{6}", r"\frac{5}{\sqrt{6}}"),
    # roots, constants, functions
    (r"\sqrt{12}", r"2\sqrt{3}"), (r"2\sqrt{3}", r"\sqrt{12}"), (r"\sqrt{2}", "2^{1/2}"), (r"\sqrt2", r"\sqrt{2}"),
    (r"\sqrt{\frac{1}{4}}", r"\frac{1}{2}"), (r"\sqrt{50}", r"5\sqrt2"), (r"3+\sqrt{2}", r"\sqrt{2}+3"),
    (r"1-\sqrt{5}", r"-\sqrt{5}+1"), (r"\frac{1+\sqrt{5}}{2}", r"\frac{\sqrt{5}+1}{2}"),
    (r"\frac{1+\sqrt{5}}{2}", r"\frac12+\frac{\sqrt5}{2}"), (r"\sqrt[3]{4}", "4^{1/3}"), (r"\sqrt{2}", "1.414214"),
    (r"2\pi", r"\pi\cdot 2"), (r"\frac{\pi}{2}", r"\pi/2"), (r"\frac{\pi}{2}", r"\frac12\pi"), (r"4\pi", r"4 \pi"),
    (r"\frac{3\pi}{4}", r"0.75\pi"), ("e^2", "e^{2}"), (r"\ln 4", r"2\ln 2"), (r"\log 100", "2"),
    (r"\sin 30^\circ", r"\sin{30^\circ}"), (r"\tan^{-1} 1", r"\arctan 1"), (r"\cos x", r"\cos(x)"),
    (r"\frac{\pi}{6}", r"\frac{2\pi}{12}"), (r"\infty", "oo"), (r"-\infty", r"-\infty"),
    # polynomials and expressions
    ("x^2+2x+1", "(x+1)^2"), ("(x+1)^2", "x^2+2x+1"), ("x^2-1", "(x-1)(x+1)"), ("2x+3", "3+2x"), ("a+b", "b+a"),
    ("ab", "ba"), ("ab", r"a \cdot b"), ("p-q", "-q+p"), ("p - q", "p-q"), ("x(x+1)", "x^2+x"), ("2(x+y)", "2x+2y"),
    (r"\frac{x+1}{2}", r"\frac{x}{2}+\frac{1}{2}"), (r"\frac{x^2-1}{x-1}", "x+1"), ("3x^2y", "3yx^2"),
    (r"\frac{1}{x}", "x^{-1}"), ("n(n+1)/2", r"\frac{n^2+n}{2}"), ("2^n", "2^{n}"), (r"2^{n+1}", r"2\cdot 2^n"),
    ("-x+4", "4-x"), ("(x-2)(x-3)", "x^2-5x+6"), ("5x^3-3x", "x(5x^2-3)"), ("x^2+y^2", "y^2+x^2"),
    (r"\sqrt{x^2+1}", r"(x^2+1)^{1/2}"), ("6r^2-4r-24", "2(3r^2-2r-12)"), ("1+x+x^2", "x^2+x+1"),
    # equations, variables before the value
    ("5", "x=5"), ("5", "x = 5"), ("x=5", "5"), (r"\frac{1}{2}", r"p = \frac{1}{2}"), ("y=2x+3", "y=3+2x"),
    ("y=2x+3", "2x-y+3=0"), ("x+y=4", "y+x=4"), ("x+y=4", "2x+2y=8"), ("f(x)=x^2", "f(x) = x^{2}"),
    ("12", "n=12"), ("y = x^2", "x^2=y"),
    # tuples, sets, intervals
    ("(1,2)", "(1, 2)"), ("(1,2)", r"\left(1,2\right)"), ("(1,2)", "1,2"), (r"\left(3,\frac{\pi}{2}\right)", r"(3,\pi/2)"),
    ("(3,-1)", "(3.0,-1)"), (r"(\frac{1}{2},1)", "(0.5,1)"), ("(1,2,3)", "(1, 2, 3)"), ("(1,2,3)", r"(1,\,2,\,3)"),
    ("1,2", "2,1"), ("1,-2", "-2, 1"), ("1,2,3", "3,2,1"), ("1,2,3", r"1, 2 \text{ and } 3"), (r"\{1,2,3\}", "1,2,3"),
    (r"\{1,2\}", r"\{2,1\}"), (r"\{1,2\}", "1,2"), ("1,2", r"\{1,2\}"), (r"2,-2", r"\pm 2"), (r"\pm 2", "2,-2"),
    (r"\pm\sqrt{3}", r"\sqrt{3}, -\sqrt{3}"), ("[0,1]", r"\left[0,1\right]"), ("[0,1)", "[0, 1)"),
    (r"(-\infty,2)", r"(-\infty, 2)"), (r"(-\infty,0)\cup(1,\infty)", r"(1,\infty)\cup(-\infty,0)"),
    (r"[1,2]\cup[3,4]", r"[3,4]\cup[1,2]"), ("x>2", r"(2,\infty)"), (r"(2,\infty)", "x>2"), (r"x \in [1,2]", "[1,2]"),
    (r"[1,2]", r"1 \le x \le 2"), (r"x\le 3", r"x \leq 3"), ("2<x<5", "5>x>2"), (r"\emptyset", r"\{\}"),
    (r"(-\infty, \infty)", r"(-\infty,+\infty)"),
    # complex numbers, matrices, bases, letters, words, text
    ("3+4i", "4i+3"), ("2i", r"2 i"), ("-i", "-1i"), ("(1+i)^2", "2i"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}"),
    (r"\begin{pmatrix}1&0\\0&1\end{pmatrix}", r"\begin{pmatrix}1 & 0\\ 0 & 1\end{pmatrix}"),
    (r"\begin{pmatrix}1/2\\0\end{pmatrix}", r"\begin{pmatrix}\frac12\\0\end{pmatrix}"), ("52_8", "52_{8}"), ("52_8", "52"),
    ("1101_2", "1101_{2}"), ("A", "(A)"), ("(B)", "B"), (r"\text{(C)}", "C"), (r"\text{D}", "D"), ("east", "East"),
    (r"\text{even}", "even"), (r"\text{Evelyn}", r"\text{Evelyn}"), ("11:30", "11:30"),
    # units with a slash or a power, signs of currencies and degrees, words in parentheses, mixed numbers
    ("10", "10 m/s"), ("10", "10 km/h"), ("10", "10 cm^2"), ("20", "20 ft^2"), ("20", r"20 \text{ m}^2"), ("18", "18 eggs/day"),
    ("18", "€18"), ("18", "£18"), ("45", "45°"), ("18", "18 (dollars)"), ("18", "(18)"), (r"\emptyset", r"\varnothing"),
    (r"\varnothing", r"\emptyset"), (r"\frac{3}{2}", "1 1/2"), ("3/2", "1 1/2"), ("18", r"\text{Answer: }18"),
    ("12", "12 cups of tea"), ("5", "5 min"), ("30", "30 years old"), ("7", "7 dollars per day"), ("1000", "1 000"),
]  # fmt: skip

DIFFERENT: list[tuple[str, str]] = [
    # off by one, sign, digits, order of magnitude
    ("18", "17"), ("18", "19"), ("18", "-18"), ("-18", "18"), ("18", "81"), ("18", "180"), ("18", "1.8"), ("18", "188"),
    ("1000", "100"), ("1000", "10000"), ("1,000", "1"), ("1,000", "1,001"), ("12345", "12,354"), ("0", "1"), ("1", "0"),
    ("0.5", "5"), ("0.5", "0.05"), ("0.5", "-0.5"), ("3.14", "3.15"), ("3.14", "3.1"), ("6", "6.1"), ("6", "6.0001"),
    ("1000000", "10^5"), ("1024", "2^{11}"), ("1024", "2^9"), ("0.001", "10^{-2}"), ("4500", r"4.5\times 10^2"),
    ("120", "4!"), ("10", r"\binom{5}{1}"), ("3", r"\sqrt{8}"), ("2", r"\sqrt[3]{9}"), ("3", r"\log_2 9"), ("5", "|-6|"),
    ("7", r"\frac{14}{3}"), ("6", r"2\cdot 4"), ("17", "10-7"), ("3", r"\lceil 3.7\rceil"), ("16", "-4^2"), ("23", "23.5"),
    ("7", "77"), ("99", "100"), ("70000", "7000"), ("540", "54"), ("20", "200"), ("64", "46"),
    # units, percent, words
    ("5", "$6"), ("5", r"\$50"), ("5.50", r"\$5.05"), ("40", "4%"), (r"40\%", "60"), (r"40\%", "0.04"), ("0.4", "4"),
    ("12", "13 apples"), ("12", r"12.5\text{ cm}"), ("90", r"9^\circ"), ("30", r"\frac{\pi}{3}"), ("1200", r"\$12,000"),
    ("60", "60 + 1"), ("12", "no apples"), ("12", "twelve hundred"), ("250", r"\$205"), ("2", "2 million"),
    ("2", "2 dozen"), ("2", "2 pi"), ("2", r"2\pi"), ("2", "2x"), ("3", "3 halves"), ("3", "3 squared"), ("3", "3 or 4"),
    # fractions
    (r"\frac{1}{2}", "2"), (r"\frac{1}{2}", r"\frac{2}{1}"), (r"\frac{1}{2}", r"-\frac{1}{2}"), (r"\frac{1}{2}", "0.2"),
    (r"\frac{1}{2}", r"\frac{1}{3}"), (r"\frac12", r"\frac{12}{1}"), (r"-\frac{1}{2}", "0.5"), (r"\frac{3}{4}", "0.7"),
    (r"\frac{3}{4}", r"\frac{4}{3}"), (r"\frac{7}{2}", "3.05"), (r"3\frac{1}{2}", r"\frac{3}{2}"), (r"3\frac{1}{2}", "2.5"),
    (r"\frac{7}{2}", r"3\frac{1}{3}"), (r"\frac{1}{3}", "0.33"), (r"\frac{1}{3}", "0.3"), (r"\frac{1}{3}", "0.3334"),
    (r"\frac{1}{6}", r"0.\overline{16}"), (r"0.\overline{12}", r"0.12"), (r"\frac{22}{7}", r"\pi"), (r"\pi", "22/7"),
    (r"\frac{17}{50}", "0.34001"), (r"\frac{a}{b}", r"\frac{b}{a}"), (r"\frac{a}{b}", "ab"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{\sqrt{3}}{2}"), (r"\frac{\sqrt{2}}{2}", r"\frac{1}{2}"), (r"\frac{4}{3}", r"1\frac{1}{4}"),
    (r"\frac{5}{8}", "0.0625"), (r"\frac{2}{3}", "0.67"), (r"\frac{9}{10}", "9"), (r"\frac{1}{11}", "0.09"),
    # roots, constants, functions
    (r"\sqrt{12}", r"3\sqrt{2}"), (r"2\sqrt{3}", r"\sqrt{6}"), (r"\sqrt{2}", "1.41"), (r"\sqrt{2}", "2"),
    (r"\sqrt{2}", r"-\sqrt{2}"), (r"\sqrt{2}", "2^{1/3}"), (r"\sqrt{50}", r"2\sqrt5"), (r"3+\sqrt{2}", r"3-\sqrt{2}"),
    (r"1-\sqrt{5}", r"\sqrt{5}-1"), (r"\frac{1+\sqrt{5}}{2}", r"1+\frac{\sqrt5}{2}"), (r"\sqrt[3]{4}", r"\sqrt{4}"),
    (r"2\pi", r"\pi"), (r"2\pi", r"2\pi^2"), (r"2\pi", "6.28"), (r"\pi", "3.14"), (r"\pi", "3.14159"), (r"\frac{\pi}{2}", r"\frac{2}{\pi}"),
    (r"\frac{3\pi}{4}", r"\frac{4\pi}{3}"), ("e^2", "2e"), ("e", "2.71"), (r"\ln 4", r"\ln 2"), (r"\ln 2", r"\log_2 e"),
    (r"\sin x", r"\cos x"), (r"\sin 30^\circ", r"\sin 60^\circ"), (r"\infty", r"-\infty"), (r"\infty", "1000000"),
    (r"4\pi", "4"), (r"\pi^2", r"2\pi"),
    # polynomials and expressions
    ("x^2+2x+1", "(x-1)^2"), ("x^2+2x+1", "x^2+2x"), ("x^2-1", "(x-1)^2"), ("2x+3", "3x+2"), ("2x+3", "2x-3"), ("a+b", "a-b"),
    ("ab", "a+b"), ("p-q", "q-p"), ("x(x+1)", "x^2+1"), ("2(x+y)", "2x+y"), (r"\frac{x+1}{2}", r"x+\frac{1}{2}"),
    (r"\frac{x^2-1}{x-1}", "x-1"), ("3x^2y", "3xy^2"), (r"\frac{1}{x}", "x"), ("n(n+1)/2", "n(n-1)/2"), ("2^n", "n^2"),
    ("2^{n+1}", "2^n+1"), ("-x+4", "x-4"), ("x", "y"), ("x^2", "y^2"), ("x_1", "x_2"), ("x^2+y^2", "(x+y)^2"), ("2x", "2"),
    ("6r^2-4r-24", "6r^2-4r+24"), ("(x-2)(x-3)", "(x+2)(x+3)"), ("n!", "n"), ("x^3", "3x"),
    # equations
    ("5", "x=6"), ("x=5", "x=-5"), ("x=5", "y=5"), ("y=2x+3", "y=2x-3"), ("y=2x+3", "y=3x+2"), ("x+y=4", "x-y=4"),
    ("x+y=4", "x+y=5"), ("f(x)=x^2", "f(x)=x^3"), ("y=x^2", "x=y^2"), ("12", "n=21"), ("y=x", "y=-x"),
    # tuples, sets, intervals
    ("(1,2)", "(2,1)"), ("(1,2)", "[1,2]"), ("(1,2)", "(1,3)"), ("(1,2)", "(1,2,3)"), ("(1,2)", "1"), ("(1,2)", "12"),
    (r"\left(3,\frac{\pi}{2}\right)", r"(3,\pi)"), ("(3,-1)", "(3,1)"), ("(3,-1)", "(-1,3)"), ("(1,2,3)", "(3,2,1)"),
    ("(1,2,3)", "(1,2)"), ("1,2", "1,3"), ("1,2", "1"), ("1", "1,2"), ("1,2,3", "1,2"), ("1,2", "1,2,3"), (r"\{1,2,3\}", r"\{1,2\}"),
    (r"\{1,2\}", r"\{1,3\}"), ("2,-2", "2"), (r"\pm 2", "2"), ("2", r"\pm 2"), (r"\pm 2", r"\pm 3"), ("[0,1]", "[0,1)"),
    ("[0,1]", "(0,1)"), ("[0,1)", "(0,1]"), ("[0,1]", "[0,2]"), (r"(-\infty,2)", r"(-\infty,2]"), (r"(-\infty,2)", r"(2,\infty)"),
    (r"(-\infty,0)\cup(1,\infty)", r"(-\infty,1)\cup(0,\infty)"), ("x>2", r"[2,\infty)"), ("x>2", "x<2"), (r"x\le 3", "x<3"),
    ("2<x<5", "2<x<6"), (r"\emptyset", "0"), (r"\emptyset", r"\{0\}"), (r"[1,2]\cup[3,4]", "[1,4]"),
    # complex numbers, matrices, bases, letters, words
    ("3+4i", "3-4i"), ("3+4i", "4+3i"), ("2i", "2"), ("-i", "i"), ("(1+i)^2", "-2i"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2\\3\end{pmatrix}"),
    (r"\begin{pmatrix}1&0\\0&1\end{pmatrix}", r"\begin{pmatrix}0&1\\1&0\end{pmatrix}"), ("52_8", "52_9"), ("52_8", "25_8"),
    ("1101_2", "1011_2"), ("A", "B"), ("(B)", "(C)"), (r"\text{(C)}", "D"), ("east", "west"), (r"\text{even}", "odd"),
    (r"\text{Evelyn}", r"\text{Angela}"), ("11:30", "11:03"), ("11:30", "12:30"),
    # words and letters after the right number that make something else of it
    ("5", "5 xy"), ("5", "5 ab"), ("5", r"5\text{x}"), ("5", r"5\mathrm{ab}"), ("5", r"5\text{ more than 2}"),
    ("3", "3 cos x"), ("3", "3 log n"), ("2", "2 less than five"), ("2", "2 if x is even"), ("2", "2 root"),
    ("4", "4 base five"), ("10", "10 base two"), ("3", "3 out of 4"), ("5", "5 squares"), ("6", "6 x/y"), ("6", "6 ab^2"),
    (r"\{1,2\}", "(1,2)"), ("(1,2)", r"\{1,2\}"), ("(1,2,3)", r"\{1,2,3\}"), ("12", "1 2"), ("1 2", "12"), ("12", r"1\,2"),
    ("1234", "12 34"),
]  # fmt: skip

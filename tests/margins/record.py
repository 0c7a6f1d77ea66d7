"""Assertions that do not raise: each is rewritten so that its distance to failing is written down.

An assertion is a tree: comparisons joined by ``and``, ``or``, ``not``, ``all`` and ``any``. Its
slack is the distance to the nearest threshold, negative when it fails: the least over what must
all hold, the greatest over what need hold once. Within a tolerance it is counted in parts of the
tolerance. A comparison that has no distance (strings,
``is``, exact equality) is recorded as true or false only, and so is an assertion whose line says
``# always: <reason>``: a bound that no seed can cross, such as a cost that never rises.
"""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass, field

import numpy as np

ORDER = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
ALL, ANY = {"all", "np.all", "torch.all"}, {"any", "np.any", "torch.any"}
CLOSE = {"np.allclose", "torch.allclose", "math.isclose", "np.isclose", "torch.isclose"}
CLOSE_STATEMENTS = {"assert_allclose", "assert_close"}
DEFAULTS = {"assert_allclose": (1e-7, 0.0), "allclose": (1e-5, 1e-8), "isclose": (1e-5, 1e-8)}
TOLERANCES = ("rtol", "atol", "rel_tol", "abs_tol", "equal_nan")
ALWAYS = "# always: "


# --- the tree of one assertion -----------------------------------------------------------------


@dataclass
class Node:
    """A comparison (`kind` ``leaf``), or what joins several (``all``, ``any``, ``not``)."""

    kind: str
    children: list[Node] = field(default_factory=list)
    every: bool = True  # of a loop or an array, the least counts; below any(...) the greatest
    ordered: bool = False
    slacks: list = field(default_factory=list)  # (slack, value, bound), in the order of evaluation

    def leaves(self):
        """All comparisons below, from left to right."""
        if self.kind == "leaf":
            return [self]
        return [leaf for child in self.children for leaf in child.leaves()]

    def slack(self):
        """(slack, value, bound) of the nearest threshold, or None without any."""
        if self.kind == "not":
            inner = self.children[0].slack()
            return inner and (-inner[0], *inner[1:])
        found = self.slacks if self.kind == "leaf" else [each.slack() for each in self.children]
        found = [each for each in found if each is not None]
        least = self.every if self.kind == "leaf" else self.kind == "all"
        return (min if least else max)(found, key=lambda each: each[0], default=None)


def name_of(function):
    """The dotted name of a called function, without what it is called on."""
    return ast.unparse(function) if isinstance(function, ast.Name | ast.Attribute) else ""


def joins(node):
    """``all`` or ``any`` when this call joins the truth values of its one argument."""
    if not isinstance(node, ast.Call) or node.keywords:
        return None, None
    name = name_of(node.func)
    if len(node.args) == 1 and name in ALL | ANY:
        return ("all" if name in ALL else "any"), node.args[0]
    if not node.args and isinstance(node.func, ast.Attribute) and node.func.attr in ("all", "any"):
        return node.func.attr, node.func.value
    return None, None


class Rewriter(ast.NodeTransformer):
    """Replaces the assertions of a module by calls of the recorder in ``builtins``."""

    def __init__(self, recorder, source):
        self.recorder = recorder
        self.lines = source.splitlines()

    def visit_Assert(self, node):
        return self.replaced(node, node.test)

    def visit_Expr(self, node):
        call = node.value
        if isinstance(call, ast.Call) and name_of(call.func).split(".")[-1] in CLOSE_STATEMENTS:
            return self.replaced(node, call)
        return self.generic_visit(node)

    def replaced(self, node, test):
        text = ast.unparse(test)
        lines = "\n".join(self.lines[node.lineno - 1 : node.end_lineno])
        tree = Node("leaf") if ALWAYS in lines else None
        leaves = []
        test = test if tree else self.expression(test, tree := Node("all"), leaves)
        number = self.recorder.add(text, tree)
        frame = ast.parse(f"__margins__.at({number})", mode="eval").body
        statement = ast.Expr(ast.Call(frame, [test], []))
        return ast.fix_missing_locations(ast.copy_location(statement, node))

    def expression(self, node, parent, leaves, every=True):
        """The same expression with its comparisons recorded; `parent` gets their tree."""
        kind, inner = joins(node)
        if isinstance(node, ast.BoolOp):
            below = Node("all" if isinstance(node.op, ast.And) else "any")
            node.values = [self.expression(value, below, leaves, every) for value in node.values]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr):
            below = Node("all" if isinstance(node.op, ast.BitAnd) else "any")
            node.left = self.expression(node.left, below, leaves, every)
            node.right = self.expression(node.right, below, leaves, every)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert):
            below = Node("not")
            node.operand = self.expression(node.operand, below, leaves, not every)
        elif kind:
            below = Node(kind)
            if isinstance(inner, ast.GeneratorExp | ast.ListComp):
                inner.elt = self.expression(inner.elt, below, leaves, kind == "all")
            elif node.args:
                node.args = [self.expression(inner, below, leaves, kind == "all")]
            else:
                node.func.value = self.expression(inner, below, leaves, kind == "all")
        else:
            below = Node("leaf", every=every)
            node = self.leaf(node, below, leaves)
        parent.children.append(below)
        return node

    def leaf(self, node, below, leaves):
        """A comparison as a call of the recorder; all else as it is."""
        name = name_of(node.func) if isinstance(node, ast.Call) else ""
        number = ast.Constant(len(leaves))
        leaves.append(below)
        if isinstance(node, ast.Compare) and all(type(op) in ORDER for op in node.ops):
            below.ordered = "approx(" in ast.unparse(node)
            below.ordered |= any(not isinstance(op, ast.Eq | ast.NotEq) for op in node.ops)
            signs = ast.Constant(tuple(ORDER[type(op)] for op in node.ops))
            return call("compare", number, signs, node.left, *node.comparators)
        if name in CLOSE or name.split(".")[-1] in CLOSE_STATEMENTS:
            below.ordered = True
            return ast.copy_location(
                ast.Call(call("close").func, [number, node.func, *node.args], node.keywords), node
            )
        return node


def call(method, *arguments):
    """A call of the recorder, as a tree."""
    recorder = ast.Attribute(ast.Name("__margins__", ast.Load()), method, ast.Load())
    return ast.Call(recorder, list(arguments), [])


# --- what the rewritten assertions call --------------------------------------------------------


class Recorder:
    """Takes the values of the assertions while a page or a test file runs."""

    def __init__(self):
        self.assertions = []  # (text, tree)
        self.open = []  # trees under evaluation, innermost last
        self.place = ""  # the test or the cell
        self.records = {}  # (place, text) -> the worst evaluation

    def add(self, text, tree):
        """Number of a new assertion."""
        self.assertions.append((text, tree))
        return len(self.assertions) - 1

    def at(self, number):
        """Open an assertion: what is given back takes the value of its test."""
        text, tree = self.assertions[number]
        for leaf in tree.leaves():
            leaf.slacks.clear()
        depth = len(self.open)
        self.open.append(tree)

        def close(value):
            del self.open[depth:]
            slack = tree.slack()
            record = {"ok": bool(value), "slack": None, "value": None, "bound": None}
            if slack is not None:
                record.update(zip(("slack", "value", "bound"), map(float, slack), strict=True))
            key = (self.place, text)
            self.records[key] = worse(self.records.get(key), record)

        return close

    def compare(self, leaf, signs, *sides):
        """A chain of comparisons, its slack recorded; the value is the expression's own."""
        leaf = self.open[-1].leaves()[leaf]
        value = True
        for left, sign, right in zip(sides, signs, sides[1:], strict=False):
            truth = OPERATORS[sign](left, right)
            value = truth if value is True else value and truth
            leaf.slacks.append(slack_of(left, sign, right, leaf.every))
            if np.ndim(truth) == 0 and not truth:
                return truth
        return value

    def close(self, leaf, function, *arguments, **options):
        """A comparison with tolerances; the functions that raise give false in place of it."""
        leaf = self.open[-1].leaves()[leaf]
        leaf.slacks.append(closeness(function, arguments, options))
        try:
            value = function(*arguments, **options)
        except AssertionError:
            return False
        return True if value is None else value


OPERATORS = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


def worse(one, other):
    """The evaluation nearer to failing."""
    if one is None:
        return other
    if one["ok"] != other["ok"]:
        return other if one["ok"] else one
    if one["slack"] is None or other["slack"] is None:
        return one if other["slack"] is None else other
    return min(one, other, key=lambda record: record["slack"])


def numbers(x):
    """A float64 array, or None for what has no distance."""
    if hasattr(x, "detach"):
        x = x.detach().cpu().numpy()
    try:
        x = np.asarray(x)
        return x.astype(np.float64) if x.dtype.kind in "biuf" else None
    except (TypeError, ValueError):
        return None


def nearest(slack, left, right, every=True):
    """(slack, value, bound) where the slack is least, or greatest; NaN counts as least."""
    slack, left, right = np.broadcast_arrays(slack, left, right)
    if not slack.size:
        return None
    k = (np.argmin if every else np.argmax)(np.where(np.isnan(slack), -np.inf, slack))
    return slack.flat[k], left.flat[k], right.flat[k]


def slack_of(left, sign, right, every=True):
    """(slack, value, bound) of one comparison, or None."""
    if sign == "==" and hasattr(right, "_yield_comparisons"):
        return approximation(left, right)
    if sign in ("==", "!="):
        return None
    left, right = numbers(left), numbers(right)
    if left is None or right is None:
        return None
    with np.errstate(invalid="ignore"):
        slack = right - left if sign in ("<", "<=") else left - right
        return nearest(slack, left, right, every)


def approximation(actual, approx):
    """Slack of ``actual == pytest.approx(expected)``: the part of the tolerance left over."""
    try:
        if hasattr(approx, "tolerance"):
            return distance(actual, approx.expected, approx.tolerance)
        pairs = [(a, approx._approx_scalar(e)) for a, e in approx._yield_comparisons(actual)]
        found = [distance(a, e.expected, e.tolerance) for a, e in pairs]
    except (TypeError, ValueError, AttributeError):
        return None
    return min((each for each in found if each), key=lambda each: each[0], default=None)


def distance(actual, expected, tolerance):
    """(part of the tolerance left over, part used up, 1), least over an array.

    In parts, because what is compared is often drawn, and its tolerance then moves with its size.
    """
    actual, expected, tolerance = (numbers(x) for x in (actual, expected, tolerance))
    if actual is None or expected is None or tolerance is None:
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        rounding = np.where(tolerance > 0, np.spacing(np.abs(expected)), 0.0)  # no whole number
        used = np.where(actual == expected, rounding, np.abs(actual - expected)) / tolerance
        used = np.where((actual == expected) & ~(tolerance > 0), 0.0, used)
    return nearest(1 - used, used, np.ones(()))


def closeness(function, arguments, options):
    """Slack of the functions that compare within tolerances, or None for nests of arrays."""
    names = ("actual", "expected", "rtol", "atol")
    given = {**dict(zip(names, arguments, strict=False)), **options}
    pair = [v for k, v in given.items() if k not in TOLERANCES][:2]
    if len(pair) < 2 or any(numbers(side) is None for side in pair):
        return None
    rtol, atol = DEFAULTS.get(function.__name__) or torch_defaults(pair[0])
    rtol, atol = given.get("rtol", rtol), given.get("atol", atol)
    if function.__name__ == "isclose":
        rtol, atol = given.get("rel_tol", rtol), given.get("abs_tol", atol)
    actual, expected = map(numbers, pair)
    return distance(actual, expected, float(atol) + float(rtol) * np.abs(expected))


def torch_defaults(tensor):
    """What ``torch.testing.assert_close`` allows, by the type of the numbers."""
    kind = str(getattr(tensor, "dtype", "float64")).split(".")[-1]
    return {"float64": (1e-7, 1e-7), "float32": (1.3e-6, 1e-5)}.get(kind, (1e-3, 1e-5))


# --- what a file asserts -----------------------------------------------------------------------


def ordered(source, recorder=None):
    """The texts of the assertions of a source that have a distance to a threshold, in order."""
    recorder = recorder or Recorder()
    Rewriter(recorder, source).visit(ast.parse(source))
    return [text for text, tree in recorder.assertions if any(n.ordered for n in tree.leaves())]


def digest(texts):
    """Ten characters that change when an assertion is new, edited or gone."""
    return hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()[:10]

"""What the sandbox changes in Jinja's syntax: a tag that ``transformers`` added, and the meter in loops and values."""

from typing import cast

from jinja2 import TemplateAssertionError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer

PRICE = "meter: "
"""Begins the names of the filters that only pay; no template can write it."""

MOST_NAMES = 1000
"""Variables of one template: Jinja copies its table of them for each branch of an ``if``. In use are some fifty."""


class Generation(Extension):
    """``{% generation %}``: what the assistant writes. A scope of its own, as in ``transformers``."""

    tags = {"generation"}  # noqa: RUF012  # declared by Jinja

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = nodes.Call(nodes.EnvironmentAttribute("generated"), [], [], None, None)
        return nodes.CallBlock(call, [], [], body).set_lineno(line)


class Metering(NodeTransformer):
    """Puts the meter into a syntax tree, as filters whose names no template can write."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def visit_Name(self, node: nodes.Name) -> nodes.Node:
        self._names.add(node.name)
        if len(self._names) > MOST_NAMES:
            raise TemplateAssertionError(f"it has more than {MOST_NAMES} variables", node.lineno)
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        turn = paying(nodes.Const(None, lineno=node.lineno), "step")
        node.body.insert(0, nodes.ExprStmt(turn, lineno=node.lineno))
        if node.test is not None:
            node.test = paying(node.test, "step")
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [part if isinstance(part, nodes.TemplateData) else paying(part, "write") for part in node.nodes]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return paying(nodes.List(node.nodes), "concatenate")

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = paying(node.expr, "weigh")
        for operand in node.ops:
            operand.expr = paying(operand.expr, "weigh")
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return paying(self.generic_visit(node), "keep")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return paying(node, "keep") if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return paying(self.generic_visit(node), "keep")

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        node.key = paying(node.key, "weigh")
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        node.node = paying(node.node, "step")  # of a literal, Python's compiler would print a warning
        return paying(node, "keep")

    def refuse(self, node: nodes.Node) -> nodes.Node:
        raise TemplateAssertionError("a chat template is one text: no blocks, imports or escaping", node.lineno)

    visit_Block = visit_Extends = visit_Include = visit_Import = visit_FromImport = refuse
    visit_EvalContextModifier = visit_ScopedEvalContextModifier = refuse


def paying(node: nodes.Node, price: str) -> nodes.Filter:
    """An expression that has the value of ``node`` and pays a price for it."""
    return nodes.Filter(cast(nodes.Expr, node), PRICE + price, [], [], None, None, lineno=node.lineno)

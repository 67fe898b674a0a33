"""What recipes make of tensors: names, values, and the account of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from tensorferry.converters.errors import UsageError
from tensorferry.converters.notes import Kind
from tensorferry.converters.tensors import Origin, Role, TensorDict
from tensorferry.converters.ties import ties
from tensorferry.pipeline.recipe.applied import Applied
from tensorferry.pipeline.recipe.apply import apply_recipe, apply_recipes
from tensorferry.pipeline.recipe.read import parse_recipe

if TYPE_CHECKING:
    from .conftest import Make


def applied(
    rules: str, tensors: TensorDict, head: str = "", settings: dict[str, str] | None = None
) -> Applied:
    return apply_recipe(parse_recipe(f"version = 1\n{head}\n{rules}", "r", settings), tensors)


def rule(text: str) -> str:
    return f"[[rule]]\n{text}\n"


# Names


def test_captures_arithmetic_and_changes_of_texts(make: Make) -> None:
    tensors = make({"bert/layer_11/LayerNorm/Gamma": (2,), "bert/pooler/w": (2,)})
    text = rule('match = "{root}/layer_{n:int}/{norm}/{leaf}"\n'
                'rename = "{root|upper}.{n+1}.{n*2-1}.{norm|snake}.{leaf|lower}"')  # fmt: skip
    assert [*applied(text, tensors)] == ["BERT.12.21.layer_norm.gamma", "bert/pooler/w"]


@pytest.mark.parametrize(
    ("change", "name", "expected"),
    [
        ("dots", "a/b/c", "a.b.c"),
        ("slashes", "a.b.c", "a/b/c"),
        ("underscores", "a/b.c", "a_b_c"),
        ("camel", "layer_norm", "LayerNorm"),
        ("snake", "HTTPLayerNorm2D", "http_layer_norm2_d"),
        ("upper", "a/b", "A/B"),
    ],
)
def test_changes_of_a_text(make: Make, change: str, name: str, expected: str) -> None:
    text = rule(f'match = "{{path:**}}"\nrename = "{{path|{change}}}"')
    assert [*applied(text, make({name: (1,)}))] == [expected]


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("a/*", ["a/b", "a/"], ["a/b/c", "b/a/c"]),
        ("a/**", ["a/b", "a/b/c"], ["b"]),
        ("a/{x}/c", ["a/b/c"], ["a/b/b/c", "a//c"]),
        ("a/{x:**}/c", ["a/b/c", "a/b/b/c"], ["a/c"]),
        ("{n:int}", ["12"], ["x", "1/2", "\u0661"]),
        ("{p:q|k}_proj", ["q_proj", "k_proj"], ["v_proj"]),
        ("{x}/{x}", ["a/a"], ["a/b"]),
        ("a.b", ["a.b"], ["axb"]),
        ("a{{0}}", ["a{0}"], ["a0"]),
        ("re:(?P<x>a+)\\\\d", ["aa1"], ["aa1/b", "b1"]),
        ("line*", ["line\\nbreak"], []),
    ],
)
def test_patterns(make: Make, pattern: str, matching: list[str], others: list[str]) -> None:
    names = [name.replace("\\n", "\n") for name in [*matching, *others]]
    kept = applied(rule(f'match = "{pattern}"\ndrop = true'), make(dict.fromkeys(names, (1,))))
    assert [*kept] == others


def test_the_first_rule_that_matches_counts(make: Make) -> None:
    text = rule('match = "a/x"\nrename = "first"') + rule('match = "a/*"\nrename = "second"')
    result = applied(text, make({"a/x": (1,), "a/y": (1,)}))
    assert [*result] == ["first", "second"]


def test_where_and_map_narrow_captures(make: Make) -> None:
    names = ["layer_0/kernel", "layer_3/kernel", "layer_9/kernel", "layer_0/gamma", "layer_0/x"]
    text = rule('match = "layer_{n:int}/{leaf}"\nwhere = { n = ["0..{last}", 9] }\n'
                'map = { leaf = { kernel = "weight", gamma = "scale" } }\n'
                'rename = "{n}.{leaf}"')  # fmt: skip
    result = applied(text, make(dict.fromkeys(names, (1,))), "[parameters]\nlast = 2")
    assert [*result] == ["0.weight", "layer_3/kernel", "9.weight", "0.scale", "layer_0/x"]


def test_selectors(make: Make) -> None:
    tensors = make(
        {"a": (2, 2), "b": np.zeros(2, np.int32), "c": (2,)},
        origins={"a": Origin("A", Role.WEIGHT), "c": Origin("C", Role.SLOT, owner="a")},
    )
    for selector, gone in (
        ('role = "weight"', {"a"}), ('role = ["slot", "tensor"]', {"b", "c"}),
        ('dtype = "int32"', {"b"}), ("rank = [0, 2]", {"a"}),
    ):  # fmt: skip
        kept = applied(rule(f'match = "*"\n{selector}\ndrop = true'), tensors)
        assert {*tensors} - {*kept} == gone
    kept = applied(rule('match = ["A", "C"]\nby = "key"\ndrop = true'), tensors)
    assert [*kept] == ["b"]


def test_a_layer_is_asked_for_where_no_config_is(make: Make) -> None:
    with pytest.raises(UsageError, match=r"there is no Keras config beside the weights"):
        applied(rule('match = "**"\nlayer = "Dense"\ndrop = true'), make({"a": (1,)}))


# What collides, what is left


def test_a_collision_names_sources_and_rules(make: Make) -> None:
    text = rule('match = "a"\nrename = "x"') + rule('match = "b"\nrename = "x"')
    with pytest.raises(UsageError) as caught:
        applied(text, make({"a": (1,), "b": (1,)}))
    assert caught.value.message == (
        "r:6: two tensors become `x`, expected one, got `a` (r:3) and `b` (r:6)"
    )


def test_a_collision_with_what_no_rule_names(make: Make) -> None:
    with pytest.raises(UsageError, match=r"got `a` \(r:3\) and `b` \(no rule\)"):
        applied(rule('match = "a"\nrename = "b"'), make({"a": (1,), "b": (1,)}))


def test_names_may_be_exchanged(make: Make) -> None:
    text = rule('match = "a"\nrename = "b"') + rule('match = "b"\nrename = "a"')
    result = applied(text, make({"a": (1,), "b": (2,)}))
    assert {name: each.spec.shape for name, each in result.items()} == {"b": (1,), "a": (2,)}


def test_unmatched(make: Make) -> None:
    tensors, text = make({"a": (1,), "b": (1,)}), rule('match = "a"\nkeep = true')
    assert [*applied(text, tensors)] == ["a", "b"]
    assert [*applied(text, tensors, 'unmatched = "drop"')] == ["a"]
    told = applied(text, tensors, 'unmatched = "note"')
    assert [*told] == ["a", "b"]
    assert [str(note) for note in told.notes] == ["no rule of r matches `b`: kept"]
    assert not applied(text, make({"a": (1,)}), 'unmatched = "note"').notes
    with pytest.raises(UsageError, match=r"^r: no rule matches `b`"):
        applied(text, tensors, 'unmatched = "error"')


def test_unmatched_is_about_all_stages(make: Make) -> None:
    stages = '[[stage]]\nname = "1"\n[[stage.rule]]\nmatch = "a"\nrename = "c"\n'
    stages += '[[stage]]\nname = "2"\n[[stage.rule]]\nmatch = "b"\nrename = "d"\n'
    result = applied(stages, make({"a": (1,), "b": (1,)}), 'unmatched = "error"')
    assert [*result] == ["c", "d"]
    with pytest.raises(UsageError, match=r"^r: stage `1`: no rule matches `b`"):
        applied(stages.replace('name = "1"', 'unmatched = "error"\nname = "1"'),
                make({"a": (1,), "b": (1,)}))  # fmt: skip


def test_stages_work_on_what_the_one_before_has_made(make: Make) -> None:
    stages = '[[stage]]\n[[stage.rule]]\nmatch = "a"\nrename = "b"\n'
    stages += '[[stage]]\n[[stage.rule]]\nmatch = "b"\nrename = "c"\n'
    result = applied(stages, make({"a": (1,)}))
    assert result.rows[0].sources == ("a",)
    assert (result.rows[0].target, result.rows[0].rules) == ("c", ("r:4", "r:8"))


def test_rules_that_match_nothing_are_told(make: Make) -> None:
    text = rule('match = ["x", "y"]\ndrop = true')
    notes = applied(text, make({"a": (1,)})).notes
    assert [str(note) for note in notes] == ["rule 1 (r:3) matches nothing: `x`, `y`"]
    with pytest.raises(UsageError, match="matches nothing, and is required: `x`, `y`"):
        applied(text + "required = true\n", make({"a": (1,)}))
    assert not applied(text + "required = false\n", make({"a": (1,)})).notes


# Values


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("{ value = 7 }", np.full((2, 3), 7, np.float32)),
        ('{ shape = [], dtype = "int64" }', np.int64(0)),
        ('{ value = -1, shape = ["{n}", 2], dtype = "int8" }', np.full((4, 2), -1, np.int8)),
        ("{ value = 0.5, shape = [0] }", np.empty(0, np.float32)),
    ],
)
def test_constant(make: Make, step: str, expected: np.ndarray) -> None:
    values = np.full((2, 3), np.nan, np.float32)
    made = applied(rule(f'match = "a{{n:int}}"\nconstant = {step}'), make({"a4": values}))["a4"]
    np.testing.assert_array_equal(made.read(), expected, strict=True)


def test_constant_that_its_type_does_not_hold(make: Make) -> None:
    text = rule('match = "a"\nconstant = { value = 300, dtype = "uint8" }')
    with pytest.raises(UsageError, match=r"^r:3: rule 1: tensor `a`: is not filled"):
        applied(text, make({"a": (2,)}))


STEPS = [
    ("transpose = true", lambda a: a.T),
    ("permute = [1, 0]", lambda a: a.T),
    ("reshape = [2, -1, 3]", lambda a: a.reshape(2, -1, 3)),
    ("reshape = ['{half}', -1]", lambda a: a.reshape(2, -1)),
    ("expand = [0, -1]", lambda a: a[None, ..., None]),
    ("slice = ['1:3', '::2']", lambda a: a[1:3, ::2]),
    ("slice = ['-2:']", lambda a: a[-2:]),
    ("slice = [':{half}']", lambda a: a[:2]),
    ("fit = { shape = [3, 8], fill = 1.5 }",
     lambda a: np.pad(a[:3], ((0, 0), (0, 2)), constant_values=1.5)),
    ("fit = { shape = [2, -1] }", lambda a: a[:2]),
    ("scale = 0.5", lambda a: a * np.float32(0.5)),
    ("gates = { from = 'ijf', to = 'fij' }", lambda a: a[:, [4, 5, 0, 1, 2, 3]]),
    ("gates = { axis = 0, order = [1, 0] }", lambda a: a[[2, 3, 0, 1]]),
    ("cast = 'float16'", lambda a: a.astype(np.float16)),
    ("do = [{ transpose = true }, { cast = 'f64' }, { slice = ['1:2'] }, { squeeze = [0] }]",
     lambda a: a.T.astype(np.float64)[1]),
    ("do = [{ reshape = [1, 4, 6, 1] }, { squeeze = true }]", lambda a: a),
]  # fmt: skip


@pytest.mark.parametrize(("step", "expected"), STEPS, ids=[step for step, _ in STEPS])
def test_steps(make: Make, step: str, expected: object) -> None:
    tensors = make({"a": (4, 6)})
    head = "[parameters]\nhalf = '{rows // 2}'\nrows = { dim = ['a', 0] }"
    result = applied(rule(f"match = 'a'\n{step}"), tensors, head)["a"]
    values = expected(tensors["a"].read())  # type: ignore[operator]
    assert result.spec.shape == values.shape
    assert result.spec.dtype.numpy() == values.dtype
    np.testing.assert_array_equal(result.read(), values)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("permute = [0, 2, 1]", "is not permuted, expected each of 2 axes once"),
        ("reshape = [5, -1]", "is not reshaped, expected a shape of 24 elements"),
        ("squeeze = [0]", "is not squeezed"),
        ("squeeze = [7]", "has no such axes, expected different ones of 2"),
        ("expand = [9]", "has no such axes, expected different ones of 3"),
        ("slice = ['0:9']", "is not sliced, expected a part of 0:4, got 0:9"),
        ("slice = [':', ':', ':']", "is not sliced, expected at most 2 axes, got 3"),
        ("fit = { shape = [3] }", "is not padded or cropped"),
        ("gates = { order = [0, 4, 1, 2, 3] }", "is not reordered"),
        ("split = { into = ['b', 'c', 'd'] }", "is not split, expected 3 equal parts"),
        ("split = { axis = 5, into = ['b', 'c'] }", "has no such axis"),
        ("split = { into = ['b', 'c'], sizes = [1, 2] }", "expected lengths that add up to 4"),
        ("cast = 'int8'", "float32 is not cast to int8"),
        ("reshape = ['{text}', -1]", "`{text}` is no whole number: 'x'"),
        ("reshape = ['{4 // zero}', -1]", "divides by zero"),
        ("reshape = ['{huge * huge}', -1]", "is too large"),
        ("rename = '{empty}'", "gets an empty name"),
        ("fit = { shape = ['{huge}', -1] }", "becomes larger than any array"),
    ],
)  # fmt: skip
def test_steps_that_do_not_fit_say_rule_and_tensor(make: Make, step: str, message: str) -> None:
    head = "[parameters]\ntext = 'x'\nempty = ''\nzero = 0\nhuge = 9000000000000000000"
    with pytest.raises(UsageError) as caught:
        applied(rule(f"match = 'a'\n{step}"), make({"a": (4, 6)}), head)
    assert message in caught.value.message
    assert caught.value.message.startswith("r:7: ")
    assert "tensor `a`" in caught.value.message


def test_transpose_is_of_two_axes(make: Make) -> None:
    with pytest.raises(UsageError, match="is not transposed, expected 2 axes"):
        applied(rule("match = 'a'\ntranspose = true"), make({"a": (2, 3, 4)}))


def test_split_into_several(make: Make) -> None:
    tensors = make({"qkv": (2, 6), "z": (1,)})
    text = rule("match = 'qkv'\nsplit = { axis = 1, into = ['q', 'k'], sizes = [2, '{4}'] }")
    result = applied(text, tensors)
    assert [*result] == ["q", "k", "z"]
    np.testing.assert_array_equal(result["k"].read(), tensors["qkv"].read()[:, 2:])


@pytest.mark.parametrize("join", ["concat", "stack"])
def test_several_become_one(make: Make, join: str) -> None:
    names = ["1/v", "0/v", "0/k", "1/k", "0/q", "1/q"]
    tensors = make(dict.fromkeys([*names, "z"], (2, 3)))
    text = rule("match = ['{n:int}/q', '{n:int}/k', '{n:int}/v']\nrename = '{n}.qkv'\n"
                f"do = [{{ {join} = {{ axis = 1 }} }}, {{ cast = 'f16' }}]")  # fmt: skip
    result = applied(text, tensors)
    assert [*result] == ["1.qkv", "0.qkv", "z"]
    parts = [tensors[f"0/{each}"].read() for each in "qkv"]
    joined = (np.concatenate if join == "concat" else np.stack)(parts, 1)
    np.testing.assert_array_equal(result["0.qkv"].read(), joined.astype("float16"))
    assert result.rows[0].sources == ("1/q", "1/k", "1/v")


def test_a_group_that_is_not_whole(make: Make) -> None:
    text = rule("match = ['{n}/q', '{n}/k']\nrename = '{n}.qk'\nconcat = {}")
    with pytest.raises(UsageError, match=r"rule 1: no tensor matches `\{n\}/k` beside `1/q`"):
        applied(text, make({"0/q": (1,), "0/k": (1,), "1/q": (1,)}))


def test_a_group_with_two_for_a_pattern(make: Make) -> None:
    text = rule("match = ['{n}/q*', '{n}/k']\nrename = '{n}.qk'\nconcat = {}")
    with pytest.raises(UsageError, match="`0/q1` and `0/q2` match one pattern of the group"):
        applied(text, make({"0/q1": (1,), "0/q2": (1,), "0/k": (1,)}))


def test_a_group_that_does_not_fit_together(make: Make) -> None:
    text = rule("match = ['{n}/q', '{n}/k']\nrename = '{n}.qk'\nconcat = { axis = 1 }")
    with pytest.raises(UsageError, match=r"tensor `0/q`: does not fit to the others"):
        applied(text, make({"0/q": (2, 1), "0/k": (3, 1)}))


# Parameters


def test_parameters_are_found_in_the_input(make: Make) -> None:
    tensors = make({"m/layer_0/w": (4, 6), "m/layer_0/b": (6,), "m/layer_1/w": (4, 6)})
    head = ("[parameters]\nroot = 'm'\nlayers = { count = '{root}/layer_{n}/*' }\n"
            "hidden = { dim = ['{root}/layer_0/w', -1] }\nheads = '{hidden // 2}'\n"
            "label = '{layers}x{hidden}'\n[metadata]\nshape = '{label}/{heads}'")  # fmt: skip
    result = applied(rule("match = '{root}/{x:**}'\nrename = '{x}'"), tensors, head)
    assert result.metadata == {"shape": "2x6/3"}
    again = applied(rule("match = '{root}/{x:**}'\nrename = '{x}'"), tensors, head,
                    {"layers": "7", "heads": "9", "label": "{x}"})  # fmt: skip
    assert again.metadata == {"shape": "{x}/9"}


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("{ count = 'x_{n}' }", "no tensor matches `x_{n}`"),
        ("{ dim = ['aa', 0] }", "no tensor is called `aa`; did you mean `a`?"),
        ("{ dim = ['a', 3] }", "`a` has no axis 3: its shape is (1,)"),
    ],
)
def test_parameters_that_are_not_found(make: Make, parameter: str, message: str) -> None:
    head = f"[parameters]\np = {parameter}"
    with pytest.raises(UsageError) as caught:
        applied(rule("match = 'a'\nrename = 'b{p}'"), make({"a": (1,)}), head)
    assert caught.value.message == f"r:3: parameters: p: {message}"
    assert caught.value.hint == "give it by hand: --set p=…"


def test_a_parameter_that_nobody_needs_is_not_looked_for(make: Make) -> None:
    head = "[parameters]\np = { count = 'x_{n}' }"
    assert [*applied(rule("match = 'a'\nrename = 'b'"), make({"a": (1,)}), head)] == ["b"]


def test_files_keep_the_types_of_values(make: Make) -> None:
    head = ("[parameters]\nn = { dim = ['a', 0] }\nname = 'x'\n[files.'config.json']\n"
            "hidden_size = '{n}'\nlist = ['{n+1}', 'of {n}']\n"
        "name = '{name}'\ntied = true")  # fmt: skip
    result = applied(rule("match = 'a'\nkeep = true"), make({"a": (5,)}), head)
    import json

    assert json.loads(result.files["config.json"]) == {
        "hidden_size": 5, "list": [6, "of 5"], "name": "x", "tied": True,
    }  # fmt: skip


# What belongs together


def test_slots_follow_their_variables(make: Make) -> None:
    origins = {"a/Adam": Origin("a/Adam", Role.SLOT, owner="a", slot="m")}
    tensors = make({"a/Adam": (1,), "a": (1,)}, origins=origins)
    result = applied(rule("match = 'a'\nrename = 'b'"), tensors)
    assert result.origin("a/Adam").owner == "b"
    assert result.origin("b").key == "a"


def test_other_names_follow(make: Make) -> None:
    tensors = make({"in/w": (1,), "z": (1,)}, aliases={"out/w": "in/w", "old": "in/w"})
    result = applied(rule("match = '{x}/w'\nrename = '{x}.weight'"), tensors)
    assert result.aliases == {"out.weight": "in.weight", "old": "in.weight"}
    assert applied(rule("match = 'in/w'\ndrop = true"), tensors).aliases == {}
    assert applied(rule("match = 'out/w'\ndrop = true"), tensors).aliases == {"old": "in/w"}


def test_other_names_that_would_be_something_else_go(make: Make) -> None:
    tensors = make({"in/w": (2, 3)}, aliases={"out/w": "in/w"})
    result = applied(rule("match = 'out/w'\nrename = 'out'\ntranspose = true"), tensors)
    assert result.aliases == {}
    assert any("its other name `out/w` goes" in note.text for note in result.notes)


def test_tie_gives_another_name(make: Make) -> None:
    text = rule("match = '{x}/w'\nrename = '{x}.w'\ntie = ['{x}.v', 'u']")
    result = applied(text, make({"a/w": (1,)}))
    assert result.aliases == {"a.v": "a.w", "u": "a.w"}


def test_untie_gives_other_names_their_own_tensor(make: Make) -> None:
    tensors = make({"in/w": (2, 3), "z": (1,)}, aliases={"out/w": "in/w"})
    text = rule("match = 'out/w'\nrename = 'out'\ntranspose = true\nuntie = true")
    result = applied(text, tensors)
    assert ([*result], result.aliases) == (["in/w", "out", "z"], {})
    np.testing.assert_array_equal(result["out"].read(), tensors["in/w"].read().T)
    plain = applied(rule("match = 'out/w'\nuntie = true"), tensors)
    assert ties(plain) == {}


def test_tied_tensors_stay_tied(make: Make) -> None:
    tensors = make({"a": (2, 3)})
    both = TensorDict("test", "test", {"a": tensors["a"], "b": tensors["a"]})
    result = applied(rule("match = '{x}'\nrename = '{x}.w'\ntranspose = true"), both)
    assert ties(result) == {"b.w": "a.w"}
    apart = applied(rule("match = '{x}'\nuntie = true\ntranspose = true"), both)
    assert ties(apart) == {}


# The account


def test_every_tensor_is_accounted_for(make: Make) -> None:
    tensors = make({"a": (2, 3), "b": (1,), "c": (1,), "d": (1,), "e": (1,)})
    text = (rule("match = 'a'\nrename = 'A'\ntranspose = true") + rule("match = 'b'\ndrop = true")
            + rule("match = 'c'\nrename = 'C'") + rule("match = 'd'\ncast = 'f16'"))  # fmt: skip
    result = applied(text, tensors)
    notes = [(note.kind, note.tensor, note.text) for note in result.notes]
    assert notes == [
        (Kind.TRANSFORMED, "a", "transpose as `A` by r:3"),
        (Kind.MOVED, "c", "`C` by r:10"),
        (Kind.CAST, "d", "float32 to float16 by r:13"),
        (Kind.EXCLUDED, "b", "dropped by r:7"),
    ]
    assert [row.target for row in result.rows] == ["A", "C", "d", "e", None]


def test_casts_on_the_way_count_what_they_lose(make: Make) -> None:
    tensors = make({"a": np.array([[1e6, 1], [2, 3]], np.float32)})
    result = applied(rule("match = 'a'\ndo = [{ cast = 'f16' }, { transpose = true }]"), tensors)
    assert result.casts["a"][0].losses is None
    result["a"].read()
    assert result.casts["a"][0].losses == (1, 0)


def test_several_recipes(make: Make) -> None:
    first = parse_recipe("version = 1\n" + rule("match = 'a'\nrename = 'b'"), "1")
    second = parse_recipe("version = 1\n" + rule("match = 'b'\nrename = 'c'"), "2")
    result = apply_recipes([first, second], make({"a": (1,)}))
    assert [*result] == ["c"]
    assert result.rows[0].rules == ("1:2", "2:2")

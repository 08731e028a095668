"""Mutations of JSON files: configurations, manifests.

Functions as those of mutations_files.py.
"""

import json

_VALUES = [
  *[None, True, False, 0, 1, -1, 2, 3, 17, 1.5, 1e-3, float("nan")],
  *[float("inf"), 10**12, 10**30, -(10**12), "", "x", "16", [], {}, [1]],
]


def _change_json(change):
  """Returns a mutation: a change of a random place in a JSON file."""

  def mutate(rng, path, world):
    value = json.loads(path.read_bytes())
    places = list(_places(value))
    if not places:
      return None
    owner, key, where = rng.choice(places)
    said = change(rng, owner, key)
    path.write_text(json.dumps(value, indent=2))
    return said and f"{where}: {said}"

  mutate.__name__ = change.__name__
  return mutate


def _places(value, where=""):
  """Yields (container, key, name) of each place in a JSON value."""
  pairs = {dict: dict.items, list: enumerate}.get(type(value), lambda _: ())
  for key, inner in list(pairs(value)):
    name = f"{where}.{key}" if where else str(key)
    yield value, key, name
    yield from _places(inner, name)


@_change_json
def drop_key(rng, owner, key):
  del owner[key]
  return "dropped"


@_change_json
def rename_key(rng, owner, key):
  if isinstance(owner, list):
    return None
  new = rng.choice([key + "s", key.upper(), key[:-1], f"bert.{key}", key + " "])
  owner[new] = owner.pop(key)
  return f"renamed to {new!r}"


@_change_json
def set_value(rng, owner, key):
  owner[key] = rng.choice(_VALUES)
  return f"set to {owner[key]!r}"


@_change_json
def change_type(rng, owner, key):
  value = owner[key]
  if isinstance(value, bool):
    owner[key] = rng.choice([str(value).lower(), int(value)])
  elif isinstance(value, (int, float)):
    owner[key] = rng.choice([str(value), [value], float(value), {"0": value}])
  elif isinstance(value, list):
    owner[key] = rng.choice([value[::-1], str(value), dict(enumerate(value))])
  else:
    owner[key] = rng.choice([[value], {"value": value}, 0, str(value)[::-1]])
  return f"{value!r:.30} is {owner[key]!r:.40}"


@_change_json
def change_number(rng, owner, key):
  value = owner[key]
  if isinstance(value, bool) or not isinstance(value, (int, float)):
    return None
  owner[key] = rng.choice([value * 2, value + 1, value - 1, -value, value / 2])
  return f"{value} is {owner[key]}"


@_change_json
def set_activation(rng, owner, key):
  if not isinstance(owner, dict) or "hidden_act" not in owner:
    return None
  acts = ["relu", "tanh", "linear", "GELU", "swish", "gelu_erf", "gelu_new"]
  owner["hidden_act"] = rng.choice(acts)
  return f"hidden_act is {owner['hidden_act']}"


def _rewrite_json(name, write):
  def mutate(rng, path, world):
    value = json.loads(path.read_bytes())
    path.write_text(write(rng, value))
    return name

  mutate.__name__ = name.replace(" ", "_")
  return mutate


_REWRITES = [
  _rewrite_json("keys sorted", lambda r, v: json.dumps(v, sort_keys=True)),
  _rewrite_json(
    "keys reversed", lambda r, v: json.dumps(dict(reversed(list(v.items()))))
  ),
  _rewrite_json("tabs", lambda r, v: "\n\t " + json.dumps(v, indent="\t")),
  _rewrite_json("in a list", lambda r, v: json.dumps([v])),
  _rewrite_json(
    "another root",
    lambda r, v: r.choice(["null", "{}", "[]", "3", '"x"', "true"]),
  ),
  _rewrite_json("a comma", lambda r, v: json.dumps(v)[:-1] + ",}"),
  _rewrite_json("single quotes", lambda r, v: str(v)),
  _rewrite_json("a comment", lambda r, v: "// sizes\n" + json.dumps(v)),
  _rewrite_json("deep", lambda r, v: "[" * 100000),
  _rewrite_json("twice", lambda r, v: json.dumps(v) * 2),
]
JSON = [
  *[drop_key, rename_key, set_value, set_value, change_type, change_number],
  *[set_activation, *_REWRITES],
]

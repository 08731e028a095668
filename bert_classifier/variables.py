"""The variables of the model, and the names that other programs give them.

`VARIABLES` is the one place that knows every name of a variable: that of the
2018 checkpoints, which is the one used here, Hugging Face's, and those with the
scopes that a training program puts before them.

Axis letters: V vocabulary, P positions, Y token types, H hidden, F
feed-forward, L labels.
"""

import re
from typing import NamedTuple, Optional


class Variable(NamedTuple):
  """One variable under both of its names.

  Attributes:
    name: TensorFlow's name, that of the 2018 checkpoints.
    hugging_face: their name.
    axes: a letter for each axis, in TensorFlow's order.
    layer: number of the encoder layer; None outside the encoder and in
      `VARIABLES`, where `{}` in the names stands for it.
  """

  name: str
  hugging_face: str
  axes: str
  layer: Optional[int] = None

  @property
  def is_transposed(self):
    """Returns True where their axes are in the opposite order: of kernels."""
    return self.name.endswith("/kernel")

  def in_layer(self, number):
    """Returns this variable with the number of a layer filled in."""
    return Variable(
      self.name.format(number),
      self.hugging_face.format(number),
      self.axes,
      number,
    )


def _parse_table(scope, their_scope, table):
  lines = (line.split() for line in table.strip().splitlines())
  return [
    Variable(scope + name, their_scope + their_name, axes)
    for name, their_name, axes in lines
  ]


VARIABLES = (
  *_parse_table(
    "bert/embeddings/",
    "bert.embeddings.",
    """
    word_embeddings          word_embeddings.weight          VH
    position_embeddings      position_embeddings.weight      PH
    token_type_embeddings    token_type_embeddings.weight    YH
    LayerNorm/beta           LayerNorm.bias                  H
    LayerNorm/gamma          LayerNorm.weight                H
    """,
  ),
  *_parse_table(
    "bert/encoder/layer_{}/",
    "bert.encoder.layer.{}.",
    """
    attention/self/query/kernel       attention.self.query.weight        HH
    attention/self/query/bias         attention.self.query.bias          H
    attention/self/key/kernel         attention.self.key.weight          HH
    attention/self/key/bias           attention.self.key.bias            H
    attention/self/value/kernel       attention.self.value.weight        HH
    attention/self/value/bias         attention.self.value.bias          H
    attention/output/dense/kernel     attention.output.dense.weight      HH
    attention/output/dense/bias       attention.output.dense.bias        H
    attention/output/LayerNorm/beta   attention.output.LayerNorm.bias    H
    attention/output/LayerNorm/gamma  attention.output.LayerNorm.weight  H
    intermediate/dense/kernel         intermediate.dense.weight          HF
    intermediate/dense/bias           intermediate.dense.bias            F
    output/dense/kernel               output.dense.weight                FH
    output/dense/bias                 output.dense.bias                  H
    output/LayerNorm/beta             output.LayerNorm.bias              H
    output/LayerNorm/gamma            output.LayerNorm.weight            H
    """,
  ),
  *_parse_table(
    "bert/pooler/dense/",
    "bert.pooler.dense.",
    """
    kernel    weight    HH
    bias      bias      H
    """,
  ),
  *_parse_table(
    "",
    "classifier.",
    """
    output_weights    weight    LH
    output_bias       bias      L
    """,
  ),
)

_BY_NAME = {variable.name: variable for variable in VARIABLES}
_BY_THEIR_NAME = {variable.hugging_face: variable for variable in VARIABLES}
_LAYER_NUMBER = re.compile(r"(?<=\blayer[_.])\d+")
# Of torch.nn.DataParallel, torch.compile, and of programs that keep the model
# under this name.
_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod|model)[./])+")


def list_variables(num_hidden_layers):
  """Returns the `Variable`s of a model with that many encoder layers."""
  variables = []
  for variable in VARIABLES:
    if "{}" in variable.name:
      variables += map(variable.in_layer, range(num_hidden_layers))
    else:
      variables.append(variable)
  return variables


def find_variable(name):
  """Returns the `Variable` of TensorFlow's name, None for a foreign name.

  Files of a bare encoder leave out `bert/`.
  """
  name = _WRAPPERS.sub("", name)
  if not name.startswith(("bert/", "output_")):
    name = "bert/" + name
  return _find(name, _BY_NAME)


def find_variable_by_their_name(name):
  """Returns the `Variable` of a name in their files, None for a foreign name.

  Files of a bare encoder leave out `bert.`; ERNIE's call it so; old ones say
  gamma and beta.
  """
  name = _WRAPPERS.sub("", name)
  name = re.sub(r"^ernie\.", "bert.", name)
  if not name.startswith(("bert.", "classifier.")):
    name = "bert." + name
  name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
  name = name.replace("LayerNorm.beta", "LayerNorm.bias")
  return _find(name, _BY_THEIR_NAME)


def _find(name, table):
  number = _LAYER_NUMBER.search(name)
  variable = table.get(_LAYER_NUMBER.sub("{}", name, count=1))
  if variable and number:
    return variable.in_layer(int(number.group()))
  return variable


def explain_two_of_one(path, variable, first, second):
  """Returns why weights under two names for one variable are not taken."""
  return (
    f"{path} holds {variable.name} twice, as {first} and as {second}, so it is"
    " unknown which is meant: save the one model that is to be used by itself"
  )

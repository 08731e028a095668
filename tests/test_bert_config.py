"""modeling.BertConfig: keys, values, files, errors."""

import json
import logging

import pytest
import tensorflow.compat.v1 as tf

import modeling

pytestmark = pytest.mark.quick


# Every key of the Chinese and multilingual releases.
RELEASED = {
  "attention_probs_dropout_prob": 0.1,
  "directionality": "bidi",
  "hidden_act": "gelu",
  "hidden_dropout_prob": 0.1,
  "hidden_size": 768,
  "initializer_range": 0.02,
  "intermediate_size": 3072,
  "max_position_embeddings": 512,
  "num_attention_heads": 12,
  "num_hidden_layers": 12,
  "pooler_fc_size": 768,
  "pooler_num_attention_heads": 12,
  "pooler_num_fc_layers": 3,
  "pooler_size_per_head": 128,
  "pooler_type": "first_token_transform",
  "type_vocab_size": 2,
  "vocab_size": 21128,
}


@pytest.fixture
def warnings(caplog):
  """Returns the texts of the warnings logged so far, as a function."""
  return lambda: [
    record.getMessage()
    for record in caplog.records
    if record.levelno == logging.WARNING
  ]


def test_released_config_survives_a_round_trip(tmp_path, warnings):
  path = tmp_path / "bert_config.json"
  path.write_text(json.dumps(RELEASED))
  config = modeling.BertConfig.from_json_file(str(path))
  assert config.to_dict() == RELEASED
  assert json.loads(config.to_json_string()) == RELEASED
  assert modeling.BertConfig.from_dict(config.to_dict()).to_dict() == RELEASED
  assert not warnings()


def test_every_released_key_is_documented():
  missing = [key for key in RELEASED if key not in modeling.BertConfig.__doc__]
  assert not missing


def test_config_defaults_are_those_of_2018():
  assert modeling.BertConfig(7).to_dict() == {
    "vocab_size": 7,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 16,
    "initializer_range": 0.02,
  }


def test_config_takes_its_arguments_in_the_order_of_2018():
  values = [9, 8, 3, 2, 16, "relu", 0.2, 0.3, 20, 4, 0.05]
  assert list(modeling.BertConfig(*values).to_dict().values()) == values


@pytest.mark.parametrize(
  "key, value",
  [
    ("vocab_size", 0),
    ("vocab_size", "30522"),
    ("vocab_size", 10**10),
    ("num_hidden_layers", 10**12),
    ("vocab_size", None),
    ("hidden_size", 48.0),
    ("hidden_size", True),
    ("num_hidden_layers", -1),
    ("num_attention_heads", 0),
    ("intermediate_size", [96]),
    ("hidden_act", "swish"),
    ("hidden_act", 3),
    ("hidden_dropout_prob", 1.0),
    ("hidden_dropout_prob", "0.1"),
    ("attention_probs_dropout_prob", -0.1),
    ("attention_probs_dropout_prob", float("nan")),
    ("max_position_embeddings", 0),
    ("type_vocab_size", 0),
    ("initializer_range", -0.02),
    ("initializer_range", float("inf")),
    ("layer_norm_eps", 0.0),
    ("layer_norm_eps", "1e-12"),
    ("position_embedding_type", "relative_key"),
    ("model_type", "roberta"),
    ("model_type", "xlm-roberta"),
    ("is_decoder", True),
    ("add_cross_attention", True),
    ("use_task_id", True),
    ("use_relative_position", True),
    ("relative_attention", True),
    ("embedding_size", 128),
    ("num_hidden_groups", 1),
    ("feed_forward_type", "geglu"),
    ("alibi_starting_size", 512),
    ("use_bottleneck", True),
    ("pruned_heads", {"0": [1]}),
  ],
)
def test_value_that_is_not_allowed_is_named_with_its_key(key, value):
  with pytest.raises(ValueError) as error:
    modeling.BertConfig.from_dict({"vocab_size": 9, key: value})
  assert key in str(error.value)
  assert repr(value) in str(error.value)


@pytest.mark.parametrize(
  "value", ["GELU", "Gelu_Erf", "none", tf.nn.relu, None]
)
def test_activation_in_any_form_is_a_value(value):
  assert modeling.BertConfig(9, hidden_act=value).hidden_act is value


def test_unknown_key_does_not_hide_a_method(warnings):
  given = {"vocab_size": 9, "architecture": "bert", "to_dict": 1}
  config = modeling.BertConfig.from_dict(given)
  assert config.to_dict() == modeling.BertConfig(9).to_dict()
  assert ["'architecture'" in warnings()[0], len(warnings())] == [True, 2]


def test_hugging_face_config_is_known(warnings):
  given = {
    "architectures": ["BertForMaskedLM"],
    "classifier_dropout": None,
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "id2label": {"0": "no"},
    "layer_norm_eps": 1e-12,
    "model_type": "bert",
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "transformers_version": "4.8.2",
    "use_cache": True,
    "vocab_size": 30522,
  }
  config = modeling.BertConfig.from_dict(given)
  assert config.to_dict().items() >= given.items()
  assert not warnings()


def test_unknown_key_is_kept_with_a_warning_that_names_the_nearest(warnings):
  given = {"vocab_size": 9, "hidden_size": 4, "hiden_size": 4}
  config = modeling.BertConfig.from_dict(given)
  assert config.to_dict()["hiden_size"] == 4
  (text,) = warnings()
  assert "'hiden_size'" in text
  assert "hidden_size?" in text


@pytest.mark.parametrize(
  "misspelt, meant",
  [
    ("hiden_size", "hidden_size"),
    ("Num_hidden_layers", "num_hidden_layers"),
    ("hidden_dropout", "hidden_dropout_prob"),
    ("layer_norm_epsilon", "layer_norm_eps"),
  ],
)
def test_a_misspelt_key_does_not_leave_the_default_in_its_place(
  misspelt, meant
):
  with pytest.raises(ValueError) as error:
    modeling.BertConfig.from_dict({"vocab_size": 9, misspelt: 1})
  assert f"no key {misspelt!r}; did you mean {meant}?" in str(error.value)


def test_every_value_that_is_not_allowed_is_told_with_its_line(tmp_path):
  path = tmp_path / "bert_config.json"
  path.write_text(
    '{\n"vocab_size": 9,\n"hidden_size": -4,\n\n"hidden_act": "swish"\n}'
  )
  with pytest.raises(ValueError) as error:
    modeling.BertConfig.from_json_file(str(path))
  for line, start in ((3, "hidden_size is -4, but"), (5, "hidden_act is 'sw")):
    assert f"{path}:{line}: {start}" in str(error.value)
  with pytest.raises(ValueError, match="hidden_size is 0.*hidden_act is 'x'"):
    modeling.BertConfig(9, hidden_size=0, hidden_act="x")


def test_of_another_architecture_nothing_else_is_told():
  distilbert = {"model_type": "distilbert", "dim": 768, "n_layers": 6}
  with pytest.raises(ValueError) as error:
    modeling.BertConfig.from_dict(distilbert)
  assert "model_type is 'distilbert'" in str(error.value)
  assert "vocab_size" not in str(error.value)


@pytest.mark.parametrize(
  "content, part",
  [
    (b'{"vocab_size": 9, "hidden_size": -4}', ":1: hidden_size is -4"),
    (b'{"hidden_size": 4}', ": vocab_size"),
    (b"[1]", "list"),
    (b'{\n"vocab_size": 9,\n"hidden_size": }', ":3: no JSON"),
    (b"{", ":1: no JSON"),
    (b'{"vocab_size": 9,\n"pooler_type": "\xff"}', ":2: the byte 0xff is not"),
    (b"[" * 100000, "recursion"),
    (b'{"vocab_size": %s}' % (b"9" * 5000), "no BERT configuration"),
  ],
)
def test_error_in_a_config_file_names_the_file(tmp_path, content, part):
  path = tmp_path / "bert_config.json"
  path.write_bytes(content)
  with pytest.raises(ValueError) as error:
    modeling.BertConfig.from_json_file(str(path))
  assert str(path) in str(error.value)
  assert part in str(error.value)


def test_config_file_that_is_not_there_is_named(tmp_path):
  for path in (tmp_path, tmp_path / "none.json"):
    with pytest.raises(FileNotFoundError, match=str(path)):
      modeling.BertConfig.from_json_file(str(path))
  with pytest.raises(FileNotFoundError, match="which is a folder"):
    modeling.BertConfig.from_json_file(str(tmp_path))


def test_layer_norm_eps_is_written_where_it_is_not_the_releases_own():
  assert modeling.BertConfig(9).layer_norm_eps == 1e-12
  assert modeling.BertConfig(9).architecture()["layer_norm_eps"] == 1e-12
  other = modeling.BertConfig(9, layer_norm_eps=1e-5)
  assert other.to_dict()["layer_norm_eps"] == 1e-5
  again = modeling.BertConfig.from_dict(other.to_dict())
  assert again.layer_norm_eps == 1e-5


def test_byte_order_mark_is_no_error(tmp_path):
  path = tmp_path / "bert_config.json"
  path.write_bytes(b'\xef\xbb\xbf{"vocab_size": 9}')
  assert modeling.BertConfig.from_json_file(str(path)).vocab_size == 9

"""Precision: what is said of a CPU without instructions for it."""

import pytest

from bert_classifier import device_choice, options, precision


def warn(monkeypatch, asked, flags, **device):
  monkeypatch.setattr(precision, "read_cpu_flags", lambda: flags)
  placement = device_choice.make_placement(options.DeviceOptions(**device))
  precision.warn_where_slower(asked, placement)


@pytest.mark.parametrize(
  ("asked", "flags", "words"),
  [
    ("mixed_bfloat16", {"avx2"}, "slower than float32: .*(amx_bf16, avx512_b"),
    ("mixed_float16", {"avx512_bf16"}, "slower than float32: .*avx512_fp16"),
    ("mixed_bfloat16", {"avx2", "avx512_bf16"}, None),
    ("mixed_bfloat16", {"amx_bf16"}, None),
    ("float32", {"avx2"}, None),
    ("mixed_bfloat16", None, None),  # the system does not tell
  ],
)
def test_a_cpu_without_the_instructions_is_slower(
  monkeypatch, caplog, asked, flags, words
):
  warn(monkeypatch, asked, flags)
  assert ("slower" in caplog.text) == (words is not None)
  if words:
    assert f"--precision={asked} will be slower" in caplog.text


def test_other_devices_get_no_warning(monkeypatch, caplog):
  warn(monkeypatch, "mixed_bfloat16", {"avx2"}, use_tpu=True)
  assert not caplog.text


def test_the_instructions_are_those_that_linux_lists(tmp_path):
  path = tmp_path / "cpuinfo"
  path.write_text("processor\t: 0\nflags\t\t: fpu avx512_bf16 amx_tile\n")
  assert precision.read_cpu_flags(path) == {"fpu", "avx512_bf16", "amx_tile"}
  path.write_text("CPU architecture: 8\n")
  assert precision.read_cpu_flags(path) is None
  assert precision.read_cpu_flags(tmp_path / "none") is None

"""What is read out of programs compiled for a GPU that is not here.

    python -m pytest -m cuda tests/engine/test_cuda.py

in an environment with the extra `cuda-compile`, which brings several gigabytes.
"""

import pathlib
import runpy
import sys

import jax
import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
NUM_MEMBERS = 2

PROGRAM = """
%fused (a: f32[4,2]) -> f32[2,4] {
  %a = f32[4,2]{1,0} parameter(0)
  ROOT %transpose.1 = f32[2,4]{1,0} transpose(%a), dimensions={1,0}
}

%body (p: (s32[], f32[4,2])) -> (s32[], f32[4,2]) {
  %p = (s32[], f32[4,2]{1,0}) parameter(0)
  %w = f32[4,2]{1,0} get-tuple-element(%p), index=1
  %turned = f32[2,4]{1,0} fusion(%w), kind=kLoop, calls=%fused
  %conv = (f32[8]{0}, u8[0]{0}) custom-call(%turned, %w), feature_group_count=2, custom_call_target="__cudnn$convForward"
  ROOT %out = (s32[], f32[4,2]{1,0}) tuple(%p)
}

ENTRY %main (q: (s32[], f32[4,2])) -> (s32[], f32[4,2]) {
  %q = (s32[], f32[4,2]{1,0}) parameter(0)
  ROOT %loop = (s32[], f32[4,2]{1,0}) while(%q), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"10"}}
}
"""  # noqa: E501


@pytest.fixture(scope="module")
def example():
    sys.path.insert(0, str(EXAMPLES))
    try:
        return runpy.run_path(str(EXAMPLES / "compile_for_cuda.py"))
    finally:
        sys.path.remove(str(EXAMPLES))


def test_operands_and_results_of_a_step_are_added_up(example):
    """The transpose moves 32 + 32 bytes, the convolution 32 + 32 in and 32 out."""
    assert example["traffic"](PROGRAM) == (64 + 96, 64)
    assert example["calls_of_cudnn"](PROGRAM) == (1, 1, 0)


@pytest.mark.cuda
def test_members_become_groups_and_are_updated_in_place(example):
    """Both CNNs' second convolutions, and their gradients, are calls of two groups."""
    jax.config.update("jax_platforms", "cpu")
    forms = example["lowering"]
    moved = {}
    for convolution in (forms.XLA, forms.WINDOWS):
        compiled = example["compile_training"](
            "cnn", NUM_MEMBERS, NUM_MEMBERS, convolution, forms.BLOCKS, "float32"
        )
        text, memory = compiled.as_text(), compiled.memory_analysis()
        calls, grouped, _ = example["calls_of_cudnn"](text)
        assert (grouped >= 2) == (calls > 0) == (convolution == forms.XLA)
        weights = 2 * NUM_MEMBERS * 105_866 * 4  # and their momentum
        assert memory.alias_size_in_bytes >= weights
        moved[convolution] = example["traffic"](text)[0]
    assert weights < moved[forms.XLA] < moved[forms.WINDOWS]

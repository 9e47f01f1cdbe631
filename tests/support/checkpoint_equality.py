"""Whether two checkpoints hold the same run, bit for bit."""

import json


def assert_equal_checkpoints(own, other, num_ranks=1):
    """All tensors of all files, all random states of all ranks, and the losses logged."""
    names = {str(file.relative_to(own)) for file in own.rglob("*.safetensors")}
    assert names == {str(file.relative_to(other)) for file in other.rglob("*.safetensors")}
    # one per rank: there really were so many
    ranks = {f"rank_state_{rank}.safetensors" for rank in range(num_ranks)}
    assert {name for name in names if name.startswith("rank_state")} == ranks
    assert {"optimizer.safetensors", "extra_state.safetensors"} < names
    for name in names:
        assert safetensors_content(own / name) == safetensors_content(other / name), name
    histories = [json.loads((folder / "trainer_state.json").read_text())["log_history"] for folder in (own, other)]
    assert histories[0] == histories[1] and any("loss" in entry for entry in histories[0])


def safetensors_content(file):
    """Header and all bytes of the tensors; safetensors does not fix the order of the header's metadata."""
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]

"""Model cards."""

import unmask


def test_model_cards_say_what_is_known_and_nothing_else(tmp_path, tiny_dir):
    network = unmask.policies.PolicyNetwork(unmask.policies.NetworkConfig(width=16, mlp=16))
    point = {
        "sampler": "β = 1",
        "accuracy": 0.9,
        "accuracy_low": 0.88,
        "accuracy_high": 0.92,
        "nfe": 4.25,
    }
    trained = {
        "model": "embedded/chain",
        "task": "chain",
        "alpha": 3.0,
        "seed": 1,
        "rounds": 9,
        "block_length": None,
    }
    metadata = {
        "trained": trained,
        "length": 48,
        "metrics": {"round": 9, "eval_accuracy": 0.5, "eval_nfe": 3.0},
        "pareto": [point],
    }
    unmask.LearnedPolicy(network, metadata=metadata).save_pretrained(tmp_path / "a")
    card = (tmp_path / "a" / "README.md").read_text(encoding="utf-8")
    for text in (
        "library_name: unmask",
        "| α | 3.0 |",
        "| block length | full diffusion |",
        "max_new_tokens=48).text",
        "9 of 9",
        "90.0 [88.0, 92.0] | 4.2 |",
        "50.0 % @ 3.0",
    ):
        assert text in card
    unmask.LearnedPolicy(network).save_pretrained(tmp_path / "b")
    bare = (tmp_path / "b" / "README.md").read_text(encoding="utf-8")
    assert "None" not in card + bare and "load_model" in card
    assert "embedded/chain" not in bare and "PATH_OR_HUB_ID@beta=1.5` is faster" in bare


def test_a_card_shows_what_was_measured_and_the_name_to_load_it_by(tmp_path):
    network = unmask.policies.PolicyNetwork(unmask.policies.NetworkConfig(width=16, mlp=16))
    point = {"sampler": "threshold:0.9", "accuracy": 0.9, "accuracy_low": 0.88} | {
        "accuracy_high": 0.92,
        "nfe": 4.25,
    }
    measured = {"prompts": 1000, "command": "unmask evaluate", "points": [point]}
    metadata = {"name": "embedded/chain", "measured": measured} | {
        "trained": {"model": "embedded/chain", "alpha_range": [0.5, 10.0], "block_length": 16}
    }
    unmask.LearnedPolicy(network, metadata=metadata).save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| α | 0.5 to 10 |" in card
    assert "Measured on 1000 test prompts" in card and "`unmask evaluate`" in card
    assert "| threshold:0.9 | 90.0 [88.0, 92.0] | 4.2 |" in card
    assert '"embedded/chain", max_new_tokens=48, block_length=16)' in card
    assert "--max-new-tokens 48 --block-length 16" in card and "PATH_OR_HUB_ID" not in card
    assert "`embedded/chain@alpha=10` is faster" in card and "@alpha=0.5` is slower" in card


def test_a_front_that_says_nothing_but_passes_can_be_saved(tmp_path):
    network = unmask.policies.PolicyNetwork(
        unmask.policies.NetworkConfig(width=16, mlp=16, conditioned=True)
    )
    front = {"pareto": [{"alpha": 1.0, "nfe": 5.0}]}
    unmask.LearnedPolicy(network, alpha=1.0, metadata=front).save_pretrained(tmp_path)
    assert "| – | – | 5.0 |" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert unmask.load_policy(tmp_path).metadata["pareto"] == front["pareto"]


def test_a_card_names_the_command_or_else_the_program(tmp_path):
    network = unmask.policies.PolicyNetwork(unmask.policies.NetworkConfig(width=16, mlp=16))
    for metadata, line in (
        ({"command": "unmask train --alpha 3"}, "| command | unmask train --alpha 3 |"),
        ({"command": None, "argv": "python train.py"}, "| program | python train.py |"),
    ):
        unmask.LearnedPolicy(network, metadata=metadata).save_pretrained(tmp_path / "policy")
        card = (tmp_path / "policy" / "README.md").read_text(encoding="utf-8")
        assert line in card and "None" not in card

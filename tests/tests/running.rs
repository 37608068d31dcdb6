//! Real models run: the perplexity of the sample, the published text of stories260K, figures against the original.

use std::collections::HashMap;
use std::sync::Arc;

use lapidary_engine::Silent;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::evaluation::{Continuation, Sampling, evaluate, output_errors};
use lapidary_engine::export::{Destination, export};
use lapidary_engine::job::{Limits, compress_layer};
use lapidary_engine::network::{CheckpointWeights, Network, Replaced};
use lapidary_engine::text::{Cut, Sequences, Source, Specials, Tokenizer, cut};
use lapidary_tests::{data, plan, repository, rtn, sample};

fn heldout(checkpoint: &Checkpoint, budget: Option<usize>) -> Sequences {
    let path = repository().join("assets/sample-books-6m/heldout_oz.txt");
    let texts = Source::path(path).read(&Silent).expect("the text");
    let tokenizer = Tokenizer::open(checkpoint).expect("the tokenizer");
    let tokens = tokenizer.encode_documents(texts.documents(), Specials::Added, &Silent);
    cut(&tokens.expect("tokens"), &Cut { budget, ..Cut::scoring(256) }).expect("windows")
}

#[test]
fn the_sample_has_its_recorded_perplexity() {
    let checkpoint = sample();
    let weights = CheckpointWeights::new(&checkpoint);
    let network =
        Network::open(checkpoint.config().expect("a config"), &weights).expect("a network");
    let sequences = heldout(&checkpoint, None);
    assert_eq!((sequences.list.len(), sequences.scored_tokens()), (249, 63_495));
    let found = evaluate(&network, None, &sequences, &Silent).expect("an evaluation");
    let perplexity = found.perplexity();
    assert!((perplexity.value - 20.813).abs() < 0.002, "{perplexity:?}");
    assert!(
        (found.nats_per_token().value - 3.035_585).abs() < 1e-4,
        "{:?}",
        found.nats_per_token()
    );
    assert!(found.is_complete());
}

#[test]
fn a_network_against_itself_differs_nowhere_and_against_another_as_far_as_it_should() {
    let checkpoint = sample();
    let weights = CheckpointWeights::new(&checkpoint);
    let config = checkpoint.config().expect("a config");
    let network = Network::open(config, &weights).expect("a network");
    let sequences = heldout(&checkpoint, Some(2048));
    let same = evaluate(&network, Some(&network), &sequences, &Silent).expect("an evaluation");
    assert_eq!(same.flip_rate().expect("a reference").value, 0.0);
    assert_eq!(same.top_overlap().expect("a reference").value, 1.0);
    assert!(same.mean_kl().expect("a reference").value < 1e-6);
    assert_eq!(same.excess_nats().expect("a reference").value, 0.0);

    let name = "model.layers.2.mlp.down_proj.weight";
    let index = checkpoint.find(name).expect("a layer");
    let mut matrix = checkpoint.weights(index, &Silent).expect("weights");
    matrix.mapv_inplace(|weight| weight * 0.9);
    let by = HashMap::from([(name.to_owned(), Arc::new(matrix))]);
    let changed = Replaced { base: &weights, by, shifts: HashMap::new() };
    let other = Network::open(config, &changed).expect("a network");
    let found = evaluate(&other, Some(&network), &sequences, &Silent).expect("an evaluation");
    let kl = found.mean_kl().expect("a reference").value;
    assert!(kl > 1e-5 && found.kl_p99.expect("a reference") > kl, "{kl}");
    assert!(found.overlap().expect("a reference").value < 1.0);

    // 0.9·W is off by a tenth of every output.
    let ids: Vec<Vec<u32>> = sequences.list.iter().map(|sequence| sequence.ids.clone()).collect();
    let errors = output_errors((&network, &weights), &changed, &ids, &Silent).expect("errors");
    assert!((errors[name].relative() - 0.1).abs() < 1e-5, "{:?}", errors[name]);
    assert!(errors.iter().all(|(other, error)| other == name || error.relative() == 0.0));
    assert_eq!(errors.len(), 42);
}

#[test]
fn continuations_with_and_without_a_past_are_the_same() {
    let checkpoint = sample();
    let weights = CheckpointWeights::new(&checkpoint);
    let network =
        Network::open(checkpoint.config().expect("a config"), &weights).expect("a network");
    let tokenizer = Tokenizer::open(&checkpoint).expect("the tokenizer");
    let prompt = tokenizer.encode("The old man said that", Specials::Added).expect("tokens");
    let mut running =
        Continuation::new(&network, &prompt, Sampling::Greedy, &Silent).expect("a continuation");
    let mut ids = prompt;
    for _ in 0..20 {
        let logits = network.logits_of(&[&ids], &Silent).expect("logits");
        let last = logits[0].row(ids.len() - 1);
        let best = (0..last.len()).max_by(|&a, &b| last[a].total_cmp(&last[b])).expect("a token");
        let next = running.next_token(&Silent).expect("a token").expect("room");
        assert_eq!(next as usize, best);
        ids.push(next);
    }
}

#[test]
fn sampling_follows_its_seed() {
    let checkpoint = sample();
    let weights = CheckpointWeights::new(&checkpoint);
    let network =
        Network::open(checkpoint.config().expect("a config"), &weights).expect("a network");
    let text = |seed| {
        let sampling = Sampling::Random { temperature: 1.0, seed };
        let mut running =
            Continuation::new(&network, &[5, 6], sampling, &Silent).expect("a continuation");
        let next = |_| running.next_token(&Silent).expect("a token").expect("room");
        (0..16).map(next).collect::<Vec<u32>>()
    };
    assert_eq!(text(1), text(1));
    assert_ne!(text(1), text(2));
}

#[test]
fn stories_260k_continues_to_its_published_text() {
    let checkpoint = Checkpoint::open(&data("stories260K")).expect("the model");
    let weights = CheckpointWeights::new(&checkpoint);
    let network =
        Network::open(checkpoint.config().expect("a config"), &weights).expect("a network");
    let tokenizer = Tokenizer::open(&checkpoint).expect("the tokenizer");
    let mut ids = tokenizer.encode("Once upon a time", Specials::Added).expect("tokens");
    let mut running =
        Continuation::new(&network, &ids, Sampling::Greedy, &Silent).expect("a continuation");
    for _ in 0..60 {
        ids.push(running.next_token(&Silent).expect("a token").expect("room"));
    }
    let text = tokenizer.decode(&ids).expect("text");
    let published = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball.";
    assert!(text.contains(published), "{text}");
}

#[test]
fn an_exported_checkpoint_runs_as_the_layers_it_holds() {
    let checkpoint = sample();
    let weights = CheckpointWeights::new(&checkpoint);
    let config = checkpoint.config().expect("a config");
    let sequences = heldout(&checkpoint, Some(1024));
    for (id, bits) in [("compressed-tensors", 4), ("compressed-tensors-int", 6)] {
        let step = rtn(bits).with("group_size", 64);
        let plan = plan(&checkpoint, &[("*_proj.weight", vec![step])]).expect("a plan");
        let folder = tempfile::TempDir::new().expect("a folder");
        let target = lapidary_engine::target::find(id).expect("a target");
        let place = Destination {
            folder: &folder.path().join("out"),
            replace: false,
            limits: Limits::default(),
        };
        export(&checkpoint, &plan, target, place, &Silent).expect("an export");
        let exported = Checkpoint::open(&folder.path().join("out")).expect("the export");
        let of_export = CheckpointWeights::new(&exported);
        let network =
            Network::open(exported.config().expect("a config"), &of_export).expect("a network");
        // The same layers, compressed here and decoded.
        let decoded = |name: String| {
            let layer = checkpoint.find(&name).expect("a layer");
            let encoding = compress_layer(&checkpoint, &plan, layer, &Silent).expect("an encoding");
            (name, Arc::new(encoding.decode()))
        };
        let names = checkpoint.tensors().iter().map(|tensor| tensor.name.clone());
        let by = names.filter(|name| name.ends_with("_proj.weight")).map(decoded).collect();
        let replaced = Replaced { base: &weights, by, shifts: HashMap::new() };
        let wanted = Network::open(config, &replaced).expect("a network");
        let found = evaluate(&network, Some(&wanted), &sequences, &Silent).expect("an evaluation");
        assert_eq!(found.excess_nats().expect("a reference").value, 0.0, "{id}");
        assert_eq!(found.flip_rate().expect("a reference").value, 0.0, "{id}");
    }
}

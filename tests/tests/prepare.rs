//! From texts and wishes to calibrations that are kept; errors weighted by what layers receive.

use lapidary_engine::Silent;
use lapidary_engine::calibration::{
    Entry, Folder, Imatrix, Wishes, ability, calibrate_with_texts, import_imatrix, prepare,
};
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::job::{Moments, Sample, Weighting};
use lapidary_engine::numeric::gram::Gram;
use lapidary_engine::text::Source;
use lapidary_tests::{assert_says, names_in, repository, rtn, sample, sample_path};
use ndarray::Array2;
use tempfile::TempDir;

fn wishes(tokens: usize, seed: u64) -> Wishes {
    let sources = vec![Source::path(sample_path().join("heldout_oz.txt"))];
    Wishes { sources, sequence_tokens: Some(32), tokens, seed, has_grams: true }
}

#[test]
fn the_forecast_of_gram_matrices_is_what_they_take() {
    let (root, model) = (TempDir::new().unwrap(), sample());
    let ability = ability(&model).unwrap();
    assert_eq!((ability.context, ability.blocks, ability.sites), (256, 6, 25));
    assert_eq!(ability.usual_sequence_tokens(), 256);
    let place = (root.path(), None);
    let (folder, found) =
        calibrate_with_texts(&model, &wishes(100, 1), None, place, &Silent).unwrap();
    assert_eq!((found.settings.tokens, found.records().len(), found.is_finished), (128, 25, true));
    let grams: u64 = lapidary_engine::disk::list_files(folder.path())
        .unwrap()
        .iter()
        .filter(|(name, _)| name.contains("gram"))
        .map(|(_, bytes)| bytes)
        .sum();
    let headers = 7 * 2048;
    assert!((ability.gram_bytes..ability.gram_bytes + headers).contains(&grams), "{grams}");
}

#[test]
fn the_seed_and_the_text_decide_the_sequences_and_the_key() {
    let model = sample();
    let of = |wishes: &Wishes| prepare(&model, wishes, None, &Silent).unwrap();
    let first = of(&wishes(200, 1));
    assert_eq!(first, of(&wishes(200, 1)));
    assert!(first.sequences.len() == 7 && first.sequences.iter().all(|ids| ids.len() == 32));
    let other = of(&wishes(200, 2));
    assert!(other.sequences != first.sequences && other.settings.key() != first.settings.key());
    let mut more = wishes(200, 1);
    more.sources.push(Source::pasted("Once upon a time there was another text."));
    let more = of(&more);
    assert_eq!(more.settings.texts[1].name, "pasted text");
    assert_ne!(more.settings.key(), first.settings.key());
}

#[test]
fn what_cannot_be_is_said() {
    let model = sample();
    let ask = |wishes: &Wishes| prepare(&model, wishes, None, &Silent);
    assert_says(ask(&Wishes::default()), &["no text"]);
    assert_says(ask(&Wishes { tokens: 0, ..wishes(1, 0) }), &["0 tokens"]);
    let long = Wishes { sequence_tokens: Some(257), ..wishes(1, 0) };
    assert_says(ask(&long), &["257", "context of 256"]);
    let mixtral = Checkpoint::open(&repository().join("tests/golden/networks/mixtral")).unwrap();
    assert_says(ability(&mixtral), &["tokenizer.json"]);
    let root = TempDir::new().unwrap();
    let path = root.path().join("a.gguf");
    let entry = Entry { sums: vec![1.0; 4], counts: vec![1.0] };
    let mut stranger = Imatrix { chunk_size: 1, chunk_count: 1, ..Imatrix::default() };
    stranger.entries.insert("blk.0.attn_q_a.weight".to_owned(), entry);
    stranger.write(&path).unwrap();
    let place = (root.path(), None);
    assert_says(import_imatrix(&model, &path, place, &Silent), &["a.gguf", "no entry"]);
    assert_eq!(names_in(root.path()), ["a.gguf"], "nothing is kept");
}

#[test]
fn importance_matrices_are_kept_as_calibrations_and_read_again() {
    let (root, model) = (TempDir::new().unwrap(), sample());
    let place = (root.path(), None);
    let (_, run) = calibrate_with_texts(&model, &wishes(100, 1), None, place, &Silent).unwrap();
    let path = root.path().join("a.gguf");
    Imatrix::from_calibration(&run).0.write(&path).unwrap();
    let (folder, found, unsaid) = import_imatrix(&model, &path, place, &Silent).unwrap();
    assert!(unsaid.is_empty() && found.is_finished, "{unsaid:?}");
    assert_eq!(Folder::list_of_model(root.path(), &run.settings.model_key).len(), 2);
    let again = Folder::open(folder.path()).unwrap().load();
    for record in run.records() {
        for layer in &record.layers {
            let imported = &again.record(layer).unwrap().inputs;
            assert!(imported.absmax.is_empty() && imported.tokens == record.inputs.tokens);
            let pairs = imported.mean_square.iter().zip(&record.inputs.mean_square);
            pairs.for_each(|(a, b)| assert!((a - b).abs() <= 1e-5 * b, "{layer}: {a} {b}"));
        }
    }
}

#[test]
fn errors_are_weighted_as_their_formulas_say() {
    let model = sample();
    let layer = model.find("model.layers.0.mlp.down_proj.weight").unwrap();
    let sample = Sample::whole(&model, layer, &Silent).unwrap();
    let steps = [rtn(3)];
    let plain = sample.damage(&steps, &Silent).unwrap();
    let through = |moments| sample.damage_through(&steps, &moments, &Silent).unwrap();
    assert_eq!(through(Moments::None), plain);
    // White inputs weight nothing, by either formula.
    let mut white = Gram::new(768);
    white.add(Array2::eye(768).view());
    for (moments, weighting) in [
        (Moments::Gram(&white), Weighting::Gram),
        (Moments::Diagonal(&[2.0; 768]), Weighting::Diagonal),
    ] {
        let found = through(moments);
        assert_eq!((found.weighting, found.rows), (weighting, plain.rows));
        let ratio = found.relative_error / plain.relative_error;
        assert!((ratio - 1.0).abs() < 1e-5, "{weighting:?}: {ratio}");
    }
    // One channel alone: the error of its column, by either formula.
    let mut one = Array2::zeros((1, 768));
    one[[0, 7]] = 3.0;
    let mut gram = Gram::new(768);
    gram.add(one.view());
    let squares = one.row(0).mapv(|x: f32| x * x).to_vec();
    let (a, b) = (through(Moments::Gram(&gram)), through(Moments::Diagonal(&squares)));
    assert!((a.relative_error / b.relative_error - 1.0).abs() < 1e-5, "{a:?} {b:?}");
    assert!((a.relative_error - plain.relative_error).abs() > 1e-4);
    // Moments that say nothing, or belong to another layer.
    assert_eq!(through(Moments::Diagonal(&[0.0; 768])), plain);
    assert_eq!(through(Moments::Diagonal(&[f32::NAN; 768])), plain);
    assert_eq!(through(Moments::Diagonal(&[1.0; 4])), plain);
}

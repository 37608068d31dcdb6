//! Encoders: BERT (Devlin et al. 2018), `RoBERTa` (Liu et al. 2019), `DistilBERT` (Sanh et al. 2019). Every token sees
//! every other; the head guesses tokens that were masked.

use crate::error::Result;
use crate::network::architectures::Sizes;
use crate::network::design::{
    Block, Design, Embedding, Feed, Head, Linear, Norm, Norms, Positions,
};
use crate::network::settings::Settings;
use crate::numeric::activation::Activation;

/// The names in which the three differ.
struct Names {
    block: &'static str,
    attention: &'static str,
    qkvo: [&'static str; 4],
    attention_norm: &'static str,
    feed: [&'static str; 2],
    feed_norm: &'static str,
    has_types: bool,
    /// Row of the first position.
    offset: usize,
    /// Layer and norm before the scores, and what the scores' bias is called.
    head: [&'static str; 3],
    prefixes: &'static [&'static str],
}

const BERT: Names = Names {
    block: "encoder.layer",
    attention: "attention",
    qkvo: ["self.query", "self.key", "self.value", "output.dense"],
    attention_norm: "attention.output.LayerNorm",
    feed: ["intermediate.dense", "output.dense"],
    feed_norm: "output.LayerNorm",
    has_types: true,
    offset: 0,
    head: [
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.bias",
    ],
    prefixes: &["bert.", ""],
};

pub(super) fn bert(settings: &Settings<'_>) -> Result<Design> {
    build(settings, &Sizes::of(settings)?, &BERT)
}

pub(super) fn roberta(settings: &Settings<'_>) -> Result<Design> {
    let padding = settings.get("pad_token_id").and_then(serde_json::Value::as_u64).unwrap_or(1);
    // The table has rows for padding too.
    let offset = (padding.min(1 << 20) + 1) as usize;
    let names = Names {
        offset,
        head: ["lm_head.dense", "lm_head.layer_norm", "lm_head.bias"],
        prefixes: &["roberta.", ""],
        ..BERT
    };
    build(settings, &Sizes::of(settings)?, &names)
}

pub(super) fn distilbert(settings: &Settings<'_>) -> Result<Design> {
    let hidden = settings.extent("dim")?;
    let heads = settings.count("n_heads")?;
    let sizes = Sizes {
        hidden,
        vocabulary: settings.extent("vocab_size")?,
        context: settings.extent_or("max_position_embeddings", 512)?,
        blocks: settings.count("n_layers")?,
        heads,
        kv_heads: heads,
        head_dim: (hidden / heads).max(1),
        ffn: settings.extent("hidden_dim")?,
        epsilon: 1e-12,
    };
    let names = Names {
        block: "transformer.layer",
        attention: "attention",
        qkvo: ["q_lin", "k_lin", "v_lin", "out_lin"],
        attention_norm: "sa_layer_norm",
        feed: ["ffn.lin1", "ffn.lin2"],
        feed_norm: "output_layer_norm",
        has_types: false,
        offset: 0,
        head: ["vocab_transform", "vocab_layer_norm", "vocab_projector.bias"],
        prefixes: &["distilbert.", ""],
    };
    build(settings, &sizes, &names)
}

fn build(settings: &Settings<'_>, sizes: &Sizes, names: &Names) -> Result<Design> {
    let hidden = sizes.hidden;
    let epsilon = settings.real_or("layer_norm_eps", 1e-12)?;
    let kind = settings.text("position_embedding_type").unwrap_or("absolute");
    if kind != "absolute" {
        return Err(crate::error::Error::Unsupported {
            what: format!("running a network with positions of the type {kind:?}"),
        });
    }
    let activation = settings.activation(&["hidden_act", "activation"], Activation::Gelu)?;
    let types = settings.extent_or("type_vocab_size", 2)?;
    let types = names.has_types.then_some(types);
    let block = |block: usize| {
        let name = format!("{}.{block}", names.block);
        let linear = |part: &str, shape| Linear::new(&format!("{name}.{part}"), shape, true);
        let norms = |part: &str| Norms {
            after: Some(Norm::layer(&format!("{name}.{part}"), hidden, epsilon)),
            ..Norms::default()
        };
        let module = format!("{name}.{}", names.attention);
        let mut attention = sizes.attention(&module, names.qkvo, [true; 2]);
        attention.causal = false;
        Block {
            attention,
            feed: Feed::Plain {
                up: linear(names.feed[0], [sizes.ffn, hidden]),
                down: linear(names.feed[1], [hidden, sizes.ffn]),
                activation,
            },
            attention_norms: norms(names.attention_norm),
            feed_norms: norms(names.feed_norm),
            parallel: false,
        }
    };
    Ok(Design {
        architecture: settings.model_type()?.to_owned(),
        hidden,
        vocabulary: sizes.vocabulary,
        context: sizes.context.saturating_sub(names.offset).max(1),
        embedding: embedding(sizes, names, (epsilon, types)),
        blocks: (0..sizes.blocks).map(block).collect(),
        last_norm: None,
        head: Some(head(sizes, names, (activation, epsilon))),
        causal: false,
        prefixes: names.prefixes,
    })
}

fn embedding(sizes: &Sizes, names: &Names, (epsilon, types): (f64, Option<usize>)) -> Embedding {
    let mut embedding = sizes.embedding("embeddings.word_embeddings");
    embedding.positions = Some(Positions {
        table: "embeddings.position_embeddings.weight".to_owned(),
        offset: names.offset,
        rows: sizes.context,
    });
    embedding.types =
        types.map(|rows| ("embeddings.token_type_embeddings.weight".to_owned(), rows));
    embedding.norm = Some(Norm::layer("embeddings.LayerNorm", sizes.hidden, epsilon));
    embedding
}

/// The head: its scores are those of the word embeddings.
fn head(sizes: &Sizes, names: &Names, (activation, epsilon): (Activation, f64)) -> Head {
    let [dense, norm, bias] = names.head;
    let mut head = sizes.head("embeddings.word_embeddings", false);
    head.scores.bias = Some(bias.to_owned());
    let dense = Linear::new(dense, [sizes.hidden, sizes.hidden], true);
    head.transform = Some((dense, activation, Norm::layer(norm, sizes.hidden, epsilon)));
    head
}

//! The recipe of a finished checkpoint: read off its configuration and the names of its tensors, off the types in a GGUF
//! file, or off the layouts of an archive.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::checkpoint::{Checkpoint, MatrixKind, Role, place_of};
use crate::checkpoint::{from_gguf, to_gguf};
use crate::disk;
use crate::error::{Error, Result};
use crate::format::gguf::TensorInfo;
use crate::format::gguf_split::{self, PartName};
use crate::method::Step;
use crate::numeric::grouping::Grouping;
use crate::recipe::form::Integers;
use crate::recipe::rules::{self, Module, Rule, RuleSet, Verdict};
use crate::recipe::sentences::Unsaid;
use crate::recipe::{
    Imported, MAX_BYTES, auto_round, block_types, compressed_tensors, form, gptq, mlx,
    not_understood,
};

/// The most experts of a tensor that are believed.
const MAX_EXPERTS: u64 = 4096;

/// The recipe of a finished checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recovered {
    /// What it was read off, as `GGUF, 201 tensors`.
    pub source: String,
    /// The id of the target whose format it has.
    pub target: &'static str,
    /// Steps by name of the tensor in a Hugging Face checkpoint, which ends in `.weight`.
    pub layers: Vec<(String, Vec<Step>)>,
    /// Sentences: what could not be taken over, and values read as the nearest.
    pub unsaid: Vec<String>,
}

/// Reads the recipe of a folder with a quantised model, or of a GGUF file.
///
/// # Errors
/// [`Error::Plan`] where nothing says how the model is quantised, and every error of opening it.
pub fn recover(path: &Path) -> Result<Recovered> {
    if path.is_dir() {
        return recover_folder(path);
    }
    if is_gguf(path) {
        return recover_gguf(path);
    }
    match path.parent().filter(|folder| folder.join("config.json").is_file()) {
        Some(folder) => recover_folder(folder),
        None => Err(Error::plan(
            format!("{} is no quantised model whose recipe can be read", path.display()),
            "give a .gguf file, or a folder with config.json and safetensors files",
        )),
    }
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

impl Recovered {
    /// The recipe on the layers of a checkpoint. Names it lacks are tried by their place in the network.
    pub fn on(&self, checkpoint: &Checkpoint) -> Imported {
        let mut places = HashMap::new();
        for (index, tensor) in checkpoint.tensors().iter().enumerate() {
            if let (Some(_), Some(name)) = (tensor.matrix, to_gguf(tensor.module())) {
                places.entry(name).or_insert(index);
            }
        }
        let mut unsaid = Unsaid::default();
        self.unsaid.iter().for_each(|sentence| unsaid.say(sentence.as_str()));
        let mut layers = BTreeMap::new();
        for (name, steps) in &self.layers {
            let module = name.strip_suffix(".weight").unwrap_or(name);
            let by_place = || to_gguf(module).and_then(|place| places.get(&place).copied());
            let exact = checkpoint.find(name);
            let index = exact.or_else(by_place);
            match index.filter(|&index| checkpoint.tensors()[index].matrix.is_some()) {
                Some(index) if exact.is_some() => {
                    layers.insert(index, steps.clone());
                }
                Some(index) => {
                    layers.entry(index).or_insert_with(|| steps.clone());
                }
                None => unsaid.of("The checkpoint has no layer ", module, "."),
            }
        }
        Imported {
            layers: layers.into_iter().collect(),
            target: Some(self.target),
            unsaid: unsaid.sentences(),
        }
    }
}

fn recover_folder(folder: &Path) -> Result<Recovered> {
    let config = folder.join("config.json");
    if !config.is_file() {
        return recover_gguf(&only_gguf(folder)?);
    }
    let config = read_json(&config)?;
    let mut unsaid = Unsaid::default();
    if config.get("quantization").is_some_and(Value::is_object) {
        let (set, _) = mlx::rule_set(&config, &mut unsaid)?;
        let of = ("MLX", mlx::TARGET);
        let found = recover_modules(folder, of, &[set], unsaid, |module| mlx::see(module, 0));
        return found.map(with_offsets);
    }
    let Some(stated) = stated(folder, &config)? else { return recover_archive(folder) };
    match stated.get("quant_method").and_then(Value::as_str).unwrap_or("gptq") {
        "compressed-tensors" => {
            let set = compressed_tensors::rule_set(&stated, &mut unsaid)?;
            let of = ("compressed-tensors", compressed_tensors::target_of(&stated));
            recover_modules(folder, of, &[set], unsaid, |module| Some(module))
        }
        "auto-round" | "intel/auto-round" => {
            let set = auto_round::rule_set(&stated, &mut unsaid)?;
            let of = ("AutoRound", auto_round::TARGET);
            recover_modules(folder, of, &[set], unsaid, |module| Some(module))
        }
        "gptq" => {
            // Transformers leaves `dynamic` out of config.json; the file beside it has it.
            let has_dynamic = stated.get("dynamic").is_some();
            let beside = if has_dynamic { None } else { beside(folder, "quantize_config.json")? };
            let of = ("GPTQ", gptq::target_of(&stated));
            let (set, sees) = gptq::rule_set(&beside.unwrap_or(stated), &mut unsaid)?;
            recover_modules(folder, of, &[set], unsaid, |m| sees(&m).then_some(m))
        }
        "awq" => {
            let set = awq_rules(&stated, &mut unsaid)?;
            recover_modules(folder, ("AWQ", "awq"), &[set], unsaid, |module| Some(module))
        }
        other => Err(Error::plan(
            format!("{} is quantised by {other}, whose recipes are not read", folder.display()),
            "give a model of compressed-tensors, GPTQ, AutoRound, AWQ, MLX or llama.cpp, or an archive",
        )),
    }
}

/// The GGUF file of a folder, or the first part of it.
fn only_gguf(folder: &Path) -> Result<PathBuf> {
    let files = disk::list_files(folder)?;
    let is_model = |name: &&str| is_gguf(Path::new(name)) && !name.starts_with("mmproj");
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).filter(is_model).collect();
    let is_whole = |name| PartName::of(name).is_some_and(|part| part.count == names.len() as u64);
    match names.as_slice() {
        [] => Err(unquantised(folder, "it has no config.json and no .gguf file")),
        [name, others @ ..] if others.is_empty() || is_whole(name) => Ok(folder.join(name)),
        _ => Err(Error::plan(
            format!("{} holds {} GGUF files", folder.display(), names.len()),
            "give one of them",
        )),
    }
}

/// The file called `name` in a folder, where there is one.
fn beside(folder: &Path, name: &str) -> Result<Option<Value>> {
    let path = folder.join(name);
    if path.is_file() { read_json(&path).map(Some) } else { Ok(None) }
}

/// The same by the method that makes the form of MLX, an offset for each group, which rounding to nearest does not.
fn with_offsets(mut recovered: Recovered) -> Recovered {
    let mut is_other = false;
    for step in recovered.layers.iter_mut().flat_map(|(_, steps)| steps) {
        if let Some(other) = form::with_offsets(step) {
            *step = other;
            is_other = true;
        }
    }
    if is_other {
        recovered.unsaid.push(
            "MLX has an offset for each group, anywhere between two levels; the method here that makes such was taken over, not the one that MLX rounds by."
                .to_owned(),
        );
    }
    recovered
}

/// What `AutoAWQ` says of all layers that it quantised.
fn awq_rules(stated: &Value, unsaid: &mut Unsaid) -> Result<RuleSet> {
    const WHAT: &str = "a quantization_config of AWQ";
    let number = |keys: [&str; 2]| keys.iter().find_map(|key| stated.get(key)?.as_i64());
    let bits = number(["bits", "w_bit"]).unwrap_or(4);
    let bits = u32::try_from(bits).ok().filter(|bits| (1..=8).contains(bits));
    let bits = bits.ok_or_else(|| not_understood(WHAT, "its bits are not within 1 and 8"))?;
    let grouping = match number(["group_size", "q_group_size"]).unwrap_or(128) {
        -1 => Grouping::Channel,
        size => {
            let inputs = usize::try_from(size).ok().filter(|&size| size > 0);
            let why = || format!("a group_size of {size} is neither -1 nor a number of inputs");
            Grouping::Group(inputs.ok_or_else(|| not_understood(WHAT, why()))?)
        }
    };
    let symmetric = stated.get("zero_point") == Some(&Value::Bool(false));
    unsaid.say(
        "The scales of inputs that AWQ folds into the norms before its layers are said nowhere; rounding to nearest was taken over.",
    );
    let verdict = Verdict::Integers(Integers::new(bits, grouping, symmetric));
    RuleSet::new(vec![Rule::others(|_| true, verdict)])
}

/// What a folder says of how it is quantised: in its config.json, or in a file of its own.
fn stated(folder: &Path, config: &Value) -> Result<Option<Value>> {
    const KEY: &str = "quantization_config";
    let nested = || config.get("text_config").and_then(|text| text.get(KEY));
    if let Some(stated) = config.get(KEY).or_else(nested).filter(|stated| stated.is_object()) {
        return Ok(Some(stated.clone()));
    }
    for name in ["quantization_config.json", "quantize_config.json"] {
        if let Some(stated) = beside(folder, name)? {
            return Ok(Some(stated));
        }
    }
    Ok(None)
}

fn unquantised(folder: &Path, why: &str) -> Error {
    Error::plan(
        format!("nothing says how {} is quantised: {why}", folder.display()),
        "give the folder of a quantised model, or a .gguf file",
    )
}

fn read_json(path: &Path) -> Result<Value> {
    let text = disk::read_text(path, MAX_BYTES)?;
    serde_json::from_str(&text).map_err(|error| Error::malformed("JSON", path, error.to_string()))
}

/// The recipe of an archive: its layouts, where one method here makes them.
fn recover_archive(folder: &Path) -> Result<Recovered> {
    let checkpoint = Checkpoint::open(folder)?;
    if !checkpoint.is_archive() {
        return Err(unquantised(folder, "its config.json has no quantization_config"));
    }
    let (mut unsaid, mut seen) = (Unsaid::default(), BTreeSet::new());
    let mut layers = BTreeMap::new();
    for tensor in checkpoint.tensors() {
        let Some(name) = checkpoint.archived_in(&tensor.name) else {
            if tensor.matrix.is_some() && tensor.name.ends_with(".weight") {
                layers.insert(tensor.name.clone(), form::keep());
            }
            continue;
        };
        let layer = checkpoint.archived(name).filter(|_| seen.insert(name));
        let Some(layer) = layer else { continue };
        match form::steps_of(&layer.layout) {
            Some(steps) => {
                layers.insert(name.to_owned(), steps);
            }
            None => unsaid.of(
                "An archive says how weights are stored and not by which method; nothing was taken over for ",
                name.strip_suffix(".weight").unwrap_or(name),
                ".",
            ),
        }
    }
    Ok(Recovered {
        source: format!("archive, {} layers", seen.len()),
        target: "archive",
        layers: layers.into_iter().collect(),
        unsaid: unsaid.sentences(),
    })
}

/// What a tensor's name ends in when it holds, or goes with, a module's quantised weights.
const ENDINGS: [&str; 4] = [".weight_packed", ".qweight", ".weight_scale", ".scales"];

/// The recipe of the modules of a folder: what is stored in codes has what the rules say, the rest is kept.
fn recover_modules(
    folder: &Path,
    (source, target): (&str, &'static str),
    sets: &[RuleSet],
    mut unsaid: Unsaid,
    sees: impl Fn(Module<'_>) -> Option<Module<'_>>,
) -> Result<Recovered> {
    let checkpoint = Checkpoint::open(folder)?;
    let mut coded_modules: Vec<&str> = checkpoint
        .tensors()
        .iter()
        .filter_map(|tensor| ENDINGS.iter().find_map(|ending| tensor.name.strip_suffix(ending)))
        .collect();
    coded_modules.sort_unstable();
    coded_modules.dedup();
    let modules: Vec<Module<'_>> =
        coded_modules.iter().filter_map(|&name| sees(stored(name))).collect();
    let mut layers: BTreeMap<String, Vec<Step>> = BTreeMap::new();
    for (at, mut steps) in rules::resolve(sets, &modules, &mut unsaid)? {
        let layer = format!("{}.weight", modules[at].own);
        steps.extend(correction(&checkpoint, &layer));
        layers.insert(layer, steps);
    }
    for name in coded_modules.iter().filter(|name| !layers.contains_key(&format!("{name}.weight")))
    {
        unsaid.of("The configuration does not say how these are quantised: ", name, ".");
    }
    let plain = checkpoint.tensors().iter().filter(|tensor| tensor.matrix.is_some());
    for tensor in plain.filter(|tensor| tensor.name.ends_with(".weight")) {
        if coded_modules.binary_search(&tensor.module()).is_err() {
            layers.insert(tensor.name.clone(), form::keep());
        }
    }
    Ok(Recovered {
        source: format!("{source}, {} layers", layers.len()),
        target,
        layers: layers.into_iter().collect(),
        unsaid: unsaid.sentences(),
    })
}

/// The step that makes factors in an adapter, where a layer has some.
fn correction(checkpoint: &Checkpoint, layer: &str) -> Option<Step> {
    let [right, _] = checkpoint.factors(layer)?;
    let rank = i64::try_from(*checkpoint.tensors()[right].shape.0.first()?).ok()?;
    Some(Step::new("eora").with("rank", rank))
}

/// A module whose weights are stored in codes: its shape is not known, its name is.
fn stored(name: &str) -> Module<'_> {
    let place = place_of(&format!("{name}.weight"));
    let kind = match place.role {
        Role::Embedding | Role::Position => MatrixKind::Embedding,
        Role::Other => MatrixKind::Unknown,
        _ => MatrixKind::Linear,
    };
    let in_block = place.block.is_some();
    Module { name: name.into(), own: name, kind, role: place.role, in_block, cols: 0 }
}

fn recover_gguf(path: &Path) -> Result<Recovered> {
    let mut unsaid = Unsaid::default();
    let mut layers = BTreeMap::new();
    let mut tensors = 0;
    let mut architecture = None;
    for (_, header) in gguf_split::open(path)? {
        tensors += header.tensors.len();
        // Of a split file only the first part need say it.
        let own = header.text("general.architecture").map(str::to_owned);
        architecture = architecture.or(own);
        let of = architecture.as_deref().unwrap_or("");
        for tensor in &header.tensors {
            add_tensor(tensor, of, &mut layers, &mut unsaid);
        }
    }
    Ok(Recovered {
        source: format!("GGUF, {tensors} tensors"),
        target: "gguf",
        layers: layers.into_iter().collect(),
        unsaid: unsaid.sentences(),
    })
}

fn add_tensor(
    tensor: &TensorInfo,
    architecture: &str,
    layers: &mut BTreeMap<String, Vec<Step>>,
    unsaid: &mut Unsaid,
) {
    let Some(own) = tensor.name.strip_suffix(".weight").filter(|own| !own.ends_with("_norm"))
    else {
        return;
    };
    if tensor.extents.len() < 2 {
        return;
    }
    let Some(module) = from_gguf(own, architecture) else {
        unsaid.of("The names of these tensors in other files are not known here: ", own, ".");
        return;
    };
    let Some(block) = tensor.block_type() else {
        let before = format!("Tensors of the unknown type {} were passed over: ", tensor.kind);
        unsaid.of(&before, own, ".");
        return;
    };
    let meant = block_types::meant(block.name);
    let Some(steps) = rules::steps_of(&meant, own, unsaid) else { return };
    match tensor.extents.as_slice() {
        _ if !module.contains('*') => {
            layers.insert(format!("{module}.weight"), steps);
        }
        [_, _, experts] if *experts <= MAX_EXPERTS => {
            for expert in 0..*experts {
                let module = module.replace('*', &expert.to_string());
                layers.insert(format!("{module}.weight"), steps.clone());
            }
        }
        extents => {
            let before = format!("Experts of extents {extents:?} are not understood: ");
            unsaid.of(&before, own, ".");
        }
    }
}

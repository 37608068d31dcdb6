//! Where the importance of inputs comes from, as GGUF files say it. In: a calibration. Out: its names and counts.

use std::collections::BTreeSet;

use crate::checkpoint::Tensor;
use crate::format::gguf_importance::Importance;
use crate::job::Subject;
use crate::method::Needs;

impl Subject<'_> {
    /// What is said of the data; `None` without a calibration. Cost: one look at each tensor.
    pub fn importance(&self) -> Option<Importance> {
        let settings = self.calibrated.settings()?;
        let joined = |names: Vec<&str>| (!names.is_empty()).then(|| names.join(", "));
        if let Some(imported) = self.calibrated.imported() {
            return Some(Importance {
                file: imported.file.clone(),
                dataset: joined(imported.datasets.iter().map(String::as_str).collect()),
                entries: imported.entries,
                chunks: Some(imported.chunks).filter(|&chunks| chunks > 0),
            });
        }
        let entries = self.entries();
        if settings.sequence_tokens == 0 {
            // Taken from an importance matrix by a version that did not note what it says of itself.
            let file =
                settings.texts.first().map_or_else(|| settings.key(), |text| text.name.clone());
            return Some(Importance { file, dataset: None, entries, chunks: None });
        }
        let chunks = u32::try_from(settings.tokens / settings.sequence_tokens);
        Some(Importance {
            file: format!("lapidary calibration {}", settings.key()),
            dataset: joined(settings.texts.iter().map(|text| text.name.as_str()).collect()),
            entries,
            chunks: chunks.ok(),
        })
    }

    /// Tensors of a GGUF file whose inputs are known.
    fn entries(&self) -> u32 {
        let knows = |tensor: &Tensor| self.calibrated.known(&tensor.name) >= Needs::Moments;
        let known = self.checkpoint.tensors().iter().filter(|t| t.matrix.is_some() && knows(t));
        let names = known.filter_map(|tensor| Some(self.checkpoint.gguf_name(tensor)?.tensor));
        u32::try_from(names.collect::<BTreeSet<String>>().len()).unwrap_or(u32::MAX)
    }
}

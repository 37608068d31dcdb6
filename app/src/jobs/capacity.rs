//! Trying every form that needs no data on a layer or on values whose bounds are known.

use lapidary_engine::job::{self, Sample};

use crate::document::capacity::{News, Values};
use crate::document::model::Model;
use crate::jobs::measure::sentence;
use crate::jobs::{Event, Jobs, Kind, Ticket};

impl Jobs {
    /// Tries the forms, one after another, from where it was left.
    pub fn try_capacity(&mut self, model: &Model, values: Values) {
        let ticket = self.begin(Kind::Capacity);
        let (checkpoint, tried) = (model.checkpoint.clone(), model.look.capacity.tried(values));
        self.spawn("capacity", move || {
            let sample = match values {
                Values::Source(source) => Ok(source.sample()),
                Values::Layer(layer) => Sample::new(&checkpoint, layer, &ticket),
            };
            let tried = sample.and_then(|sample| run(&sample, (values, tried), &ticket));
            if let Some(Err(sentence)) = sentence(tried) {
                ticket.send(Event::Capacity(values, News::Failed(sentence)));
            }
        });
    }

    /// Stops trying.
    pub fn stop_capacity(&mut self) {
        self.stop(Kind::Capacity);
    }
}

fn run(
    sample: &Sample,
    (values, tried): (Values, usize),
    ticket: &Ticket,
) -> lapidary_engine::Result<()> {
    let forms = job::forms();
    let coded = job::entropy_coded(sample.weights());
    ticket.send(Event::Capacity(values, News::Begun(coded, forms.len())));
    for steps in forms.into_iter().skip(tried) {
        let held = job::hold(sample, &steps, ticket)?;
        ticket.send(Event::Capacity(values, News::Tried(held.map(Box::new))));
    }
    Ok(())
}

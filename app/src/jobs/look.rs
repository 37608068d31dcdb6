//! What the inspector alone needs: profiles, pictures, the spectrum of an assignment's error.

use std::ops::Range;
use std::sync::Arc;

use lapidary_engine::checkpoint::SharedCheckpoint;
use lapidary_engine::encoding::Encoding;
use lapidary_engine::plan::Plan;
use lapidary_engine::statistics::{self, Field};
use lapidary_engine::{Error, Result, job};

use crate::document::calibrations::{self, Loaded};
use crate::document::look::{Near, Picture, Seen, Subject};
use crate::document::model::Model;
use crate::jobs::measure::sentence;
use crate::jobs::{Event, Jobs, Kind, Ticket};

/// Cells of a window near by, at most, along each side.
const NEAR_SIDE: usize = 1024;

impl Jobs {
    /// Profiles the rows and columns of layers, one after the other.
    pub fn profile(&mut self, model: &Model, layers: Vec<usize>) {
        let ticket = self.begin(Kind::Profile);
        let mean = |layer: usize| model.statistics(layer).map_or(0.0, |known| known.mean);
        let layers: Vec<(usize, f64)> = layers.iter().map(|&layer| (layer, mean(layer))).collect();
        let checkpoint = model.checkpoint.clone();
        self.spawn("profile", move || {
            for (layer, mean) in layers {
                let profile = statistics::measure_profile(&checkpoint, layer, mean, &ticket);
                let Some(answer) = sentence(profile) else { return };
                ticket.send(Event::Profile(layer, answer));
            }
        });
    }

    /// Pictures a whole layer, or the error of its assignment.
    pub fn picture(&mut self, model: &Model, subject: Subject) {
        let ticket = self.begin(Kind::Picture);
        let source = Source::of(model);
        self.spawn("picture", move || {
            let answer = match picture(&source, &subject, &ticket) {
                Err(Error::Cancelled) => return,
                result => result.map_err(|error| error.sentence()),
            };
            ticket.send(Event::Picture(subject, answer));
        });
    }

    /// Pictures a part of a layer as finely as the window can show it.
    pub fn picture_near(
        &mut self,
        checkpoint: SharedCheckpoint,
        picture: &Picture,
        (subject, rows, cols): (Subject, Range<usize>, Range<usize>),
    ) {
        let ticket = self.begin(Kind::Near);
        let encoding = picture.encoding.clone();
        self.spawn("near", move || {
            let step = rows.len().max(cols.len()).div_ceil(NEAR_SIDE).max(1).next_power_of_two();
            let place = (step, rows.clone(), cols.clone());
            let seen = subject.1.clone();
            let cells = with_field(&seen, encoding.as_ref(), |field| {
                statistics::window(&checkpoint, subject.0, field, place, &ticket)
            });
            if let Some(cells) = sentence(cells) {
                ticket.send(Event::Near(Near { subject, rows, cols, cells }));
            }
        });
    }

    /// Estimates the leading singular values of a layer.
    pub fn estimate_spectrum(&mut self, model: &Model, layer: usize) {
        let ticket = self.begin(Kind::Estimate);
        let checkpoint = model.checkpoint.clone();
        self.spawn("estimate", move || {
            // What stands in the way is said by the exact computation too.
            if let Ok(estimate) = statistics::estimate_spectrum(&checkpoint, layer, &ticket) {
                ticket.send(Event::Estimate(layer, Arc::new(estimate)));
            }
        });
    }

    /// Computes the singular values of an assignment's error.
    pub fn error_spectrum(&mut self, model: &Model, subject: Subject) {
        let ticket = self.begin(Kind::ErrorSpectrum);
        let source = Source::of(model);
        self.spawn("error spectrum", move || {
            let layer = subject.0;
            let spectrum = source.compress(layer, &ticket).and_then(|e| {
                let decode = |row: usize, out: &mut [f32]| e.decode_row(row, out);
                statistics::measure_error_spectrum(&source.checkpoint, layer, &decode, &ticket)
            });
            if let Some(answer) = sentence(spectrum) {
                ticket.send(Event::ErrorSpectrum(subject, answer));
            }
        });
    }

    /// Computes the singular values at the cuts of a tensor train.
    pub fn cuts(&mut self, model: &Model, subject: Subject) {
        let ticket = self.begin(Kind::Cuts);
        let checkpoint = model.checkpoint.clone();
        let assignment = model.assignment(subject.0);
        self.spawn("cuts", move || {
            let cuts = job::cuts(&checkpoint, &assignment, subject.0, &ticket);
            if let Some(answer) = sentence(cuts) {
                ticket.send(Event::Cuts(subject, answer));
            }
        });
    }
}

/// What layers are compressed from.
struct Source {
    checkpoint: SharedCheckpoint,
    plan: Arc<Plan>,
    loaded: Option<Arc<Loaded>>,
}

impl Source {
    fn of(model: &Model) -> Self {
        let (checkpoint, plan) = (model.checkpoint.clone(), model.plan().clone());
        Self { checkpoint, plan, loaded: model.calibrations.loaded.clone() }
    }

    fn compress(&self, layer: usize, ticket: &Ticket) -> Result<Encoding> {
        let subject = calibrations::subject(&self.checkpoint, self.loaded.as_deref());
        job::compress_layer(subject, &self.plan, layer, ticket)
    }
}

fn picture(source: &Source, (layer, seen): &Subject, ticket: &Ticket) -> Result<Picture> {
    let encoding = match seen {
        Seen::Weights => None,
        Seen::After(_) | Seen::Error(_) => Some(Arc::new(source.compress(*layer, ticket)?)),
    };
    let map = with_field(seen, encoding.as_ref(), |field| {
        statistics::measure_heat(&source.checkpoint, *layer, field, ticket)
    })?;
    Ok(Picture { map: Arc::new(map), encoding })
}

fn with_field<T>(
    seen: &Seen,
    encoding: Option<&Arc<Encoding>>,
    work: impl FnOnce(Field<'_>) -> T,
) -> T {
    let Some(encoding) = encoding else {
        return work(Field::Weights);
    };
    let decode = |row: usize, out: &mut [f32]| encoding.decode_row(row, out);
    match seen {
        Seen::Weights => work(Field::Weights),
        Seen::After(_) => work(Field::Decoded(&decode)),
        Seen::Error(_) => work(Field::Error(&decode)),
    }
}

//! What the inspector looks at, and what was computed for it alone: profiles, pictures, spectra of errors.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use lapidary_engine::encoding::Encoding;
use lapidary_engine::plan::Assignment;
use lapidary_engine::statistics::{HeatMap, Pooled, Profile, Spectrum, SpectrumEstimate};

use crate::document::measurements::Measured;

/// The most layers the inspector lays over one another.
pub const MAX_OVERLAID: usize = 8;

/// What the inspector shows above the form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tab {
    /// Histogram, profiles, numbers.
    #[default]
    Weights,
    /// Picture of the matrix, largest weights, where outliers sit.
    Outliers,
    /// Singular values.
    Spectrum,
    /// Bit planes.
    Bits,
    /// Against a second checkpoint.
    Compare,
}

impl Tab {
    /// Every tab with its title and what it shows.
    pub const ALL: [(Self, &'static str, &'static str); 5] = [
        (
            Self::Weights,
            "Weights",
            "Histogram with fits and the grid, profiles of rows and columns.",
        ),
        (
            Self::Outliers,
            "Outliers",
            "Picture of the whole matrix down to single weights, the largest weights, where outliers sit.",
        ),
        (
            Self::Spectrum,
            "Spectrum",
            "Singular values: how much of the layer few directions carry, and what a rank would cost.",
        ),
        (
            Self::Bits,
            "Bits",
            "Entropy of sign, exponent and mantissa: what lossless coding could save, and precision that is not used.",
        ),
        (
            Self::Compare,
            "Compare",
            "The same layer in a second checkpoint: the base of a fine-tune, or an export.",
        ),
    ];
}

/// What a picture shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quantity {
    /// |w|: of each block the largest.
    #[default]
    Magnitude,
    /// |w|: of each block the mean.
    MeanMagnitude,
    /// w with its sign: of each block the weight of largest magnitude.
    Signed,
    /// |w − ŵ| of the present assignment: of each block the largest.
    Error,
    /// |w − ŵ|: of each block the mean.
    MeanError,
}

impl Quantity {
    /// Every quantity with its title.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Magnitude, "|w|, largest"),
        (Self::MeanMagnitude, "|w|, mean"),
        (Self::Signed, "w, signed"),
        (Self::Error, "error, largest"),
        (Self::MeanError, "error, mean"),
    ];

    /// Whether it is of the error.
    pub fn is_error(self) -> bool {
        matches!(self, Self::Error | Self::MeanError)
    }

    /// Whether cells are means rather than extremes.
    pub fn is_mean(self) -> bool {
        matches!(self, Self::MeanMagnitude | Self::MeanError)
    }
}

/// A layer with the assignment whose error is pictured; `None` for the weights themselves.
pub type Subject = (usize, Option<Arc<Assignment>>);

/// A part of a picture near by.
#[derive(Clone, Debug)]
pub struct Near {
    /// What is pictured.
    pub subject: Subject,
    /// Rows of weights.
    pub rows: Range<usize>,
    /// Columns of weights.
    pub cols: Range<usize>,
    /// The cells, or why there are none.
    pub cells: Result<Arc<Pooled>, String>,
}

/// A picture of a layer's error keeps the encoding, to look at it near by.
#[derive(Clone, Debug)]
pub struct Picture {
    /// The levels.
    pub map: Arc<HeatMap>,
    /// Where the error is pictured, what it is the error of.
    pub encoding: Option<Arc<Encoding>>,
}

/// What was asked of background work last.
#[derive(Debug, Default, PartialEq)]
pub struct Asked {
    /// The layers to profile.
    pub profiles: Vec<usize>,
    /// The layer to picture.
    pub picture: Option<Subject>,
    /// The part to picture near by: rows and columns.
    pub near: Option<(Subject, Range<usize>, Range<usize>)>,
    /// The layer whose spectrum is to be estimated.
    pub estimate: Option<usize>,
    /// The assignment whose error's spectrum is wanted.
    pub error_spectrum: Option<Subject>,
}

/// What was computed for the inspector.
#[derive(Debug, Default)]
pub struct Look {
    /// Rows and columns of the layers on show.
    pub profiles: BTreeMap<usize, Measured<Profile>>,
    /// What the picture shows.
    pub quantity: Quantity,
    /// The picture, or why there is none.
    pub picture: Option<(Subject, Result<Picture, String>)>,
    /// The rows and columns of weights that the picture should show near by.
    pub wanted: Option<(Range<usize>, Range<usize>)>,
    /// What was asked for last, so that nothing is asked for twice.
    pub asked: Asked,
    /// The picture near by.
    pub near: Option<Near>,
    /// A quick estimate of the leading singular values while the exact ones are computed.
    pub estimate: Option<(usize, Arc<SpectrumEstimate>)>,
    /// Whether the spectrum of the error is shown too.
    pub wants_error_spectrum: bool,
    /// The spectrum of an assignment's error.
    pub error_spectrum: Option<(Subject, Result<Arc<Spectrum>, String>)>,
    /// The rank the person is asking about.
    pub rank: Option<usize>,
}

//! What the inspector looks at, and what was computed for it alone: profiles, pictures, spectra of errors.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use lapidary_engine::encoding::Encoding;
use lapidary_engine::method::Cut;
use lapidary_engine::plan::{Assignment, Plan};
use lapidary_engine::statistics::{HeatMap, Pooled, Profile, Spectrum, SpectrumEstimate};

use crate::document::capacity::Capacity;
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
    /// What bits cost: error against size.
    Damage,
    /// What forms can hold at all.
    Capacity,
    /// What the layer receives when text runs through the model.
    Activations,
}

impl Tab {
    /// Every tab with its title and what it shows.
    pub const ALL: [(Self, &'static str, &'static str); 8] = [
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
        (
            Self::Damage,
            "Damage",
            "What bits and groups cost: error against size for every way to quantise the layer, and what the next step is worth.",
        ),
        (
            Self::Capacity,
            "Capacity",
            "What every form that needs no data can hold of this layer, of normal and of Laplace values: true bits against distortion, beside Shannon's bound.",
        ),
        (
            Self::Activations,
            "Activations",
            "What the layer receives when text runs through the model: outlier channels, and the spectrum of the weights as inputs see them.",
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

/// What of a layer is pictured.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// The weights as they are.
    Weights,
    /// What an assignment makes of them.
    After(Arc<Assignment>),
    /// The difference.
    Error(Arc<Assignment>),
}

/// A layer and what of it is pictured.
pub type Subject = (usize, Seen);

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
    /// Where an assignment is pictured, what it made.
    pub encoding: Option<Arc<Encoding>>,
}

/// What the list of trials was made for.
#[derive(Debug)]
pub struct Trying {
    /// The plan whose assignments are tried.
    pub plan: Arc<Plan>,
    /// The target, by which steps are taken.
    pub target: &'static str,
    /// The layers to begin with.
    pub inspected: Vec<usize>,
    /// Whether curves of the first of them are wanted.
    pub curves: bool,
    /// Whether the prices of all layers are wanted.
    pub prices: bool,
    /// Whether exact errors are wanted.
    pub exact: bool,
    /// Whether the sensitivities of all layers are wanted.
    pub sensitivities: bool,
    /// What is on screen.
    pub visible: Vec<usize>,
}

impl PartialEq for Trying {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.plan, &other.plan)
            && (self.target, self.curves, self.prices, self.exact, self.sensitivities)
                == (other.target, other.curves, other.prices, other.exact, other.sensitivities)
            && self.inspected == other.inspected
            && (!self.prices || self.visible == other.visible)
    }
}

/// What was asked of background work last.
#[derive(Debug, Default, PartialEq)]
pub struct Asked {
    /// The assignments to try.
    pub trials: Option<Trying>,
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
    /// The tensor train whose cuts are wanted.
    pub cuts: Option<Subject>,
}

impl Look {
    /// Forgets what assignments were found to do, as another calibration may make other encodings of them.
    pub fn forget_results(&mut self) {
        (self.picture, self.near, self.error_spectrum) = (None, None, None);
        let Asked { trials, picture, near, error_spectrum, .. } = &mut self.asked;
        (*trials, *picture, *near, *error_spectrum) = (None, None, None, None);
    }
}

/// The cuts of a tensor train, or why there are none.
pub type Cuts = Result<Arc<Vec<Cut>>, String>;

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
    /// The cuts of a tensor train.
    pub cuts: Option<(Subject, Cuts)>,
    /// Whether histogram and picture show the layer after its assignment.
    pub after: bool,
    /// What forms can hold.
    pub capacity: Capacity,
    /// The rank the person is asking about.
    pub rank: Option<usize>,
}

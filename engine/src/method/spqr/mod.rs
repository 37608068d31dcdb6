//! `SpQR`: small groups under scales that are codes themselves, and single weights kept where a grid would hurt most.

mod fit;
mod walk;

use crate::encoding::{
    Affine, AffineData, Bilevel, BilevelData, Encoding, Layout, Outliers, OutliersLayout, Sparse,
    SparseLayout, Sum, SumLayout,
};
use crate::error::Result;
use crate::method::gptq::{self, DAMPING, ORDER};
use crate::method::outliers::layout_of;
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Option_, Parameter, Resolved, Stage, Task, masked,
};
use crate::tensor::MatrixShape;
use fit::Small;
use walk::{Row, Search};

/// The walk of GPTQ over groups of few inputs, as U of (H + d·I)⁻¹ = Uᵀ·U leads it.
///
/// A weight is an outlier where (w − ŵ)²/Uᵢᵢ² > T when the walk comes to it: it keeps w − ŵ in 16 bits besides its code,
/// so that only the rounding of that is fed on. When a group's grid is fitted, weights whose being left out lowers
/// Σ(w − ŵ)²/Uᵢᵢ² of the group by more than T give way to the mean of the others. T = τ·mean over inputs of
/// var(W₊ᵢ)/Uᵢᵢ², raised until there are no more outliers than there is room for: bytes are known beforehand. *Codes*:
/// scales and zero points of the same group of 16 rows are rounded to codes of 3 bits on a grid of their own, of two
/// numbers in the type of the scales each, and moved to neighbours while the error of their group falls. Room that is
/// not used holds zeros. With no room and plain statistics this is GPTQ with zero points.
/// By activation, grids and their outliers come from the weights as they were; groups stay runs of inputs.
/// Cost: 2/3·cols³ + some 2·rows·cols² operations, and about 300 a weight for grids; memory 12·cols² + 8·rows·cols bytes.
pub(super) struct Spqr;

/// The registry's entry.
pub(super) static ENTRY: Spqr = Spqr;

static ABOUT: About = About {
    id: "spqr",
    title: "SpQR",
    summary: "GPTQ in groups of 16 inputs whose scales and zero points are codes of few bits themselves; weights that no small grid suits keep a value of their own.",
    citation: "Dettmers, Svirschevski, Egiazarian, Kuznedelev, Frantar, Ashkboos, Borzunov, Hoefler & Alistarh, SpQR: A sparse-quantized representation for near-lossless LLM weight compression, ICLR 2024, algorithm 1",
    stage: Stage::Quantise,
    needs: Needs::Gram,
    parameters: &[
        BITS,
        GROUP_SIZE,
        STATISTICS,
        STATISTIC_BITS,
        STATISTIC_ROWS,
        SHARE,
        THRESHOLD,
        ORDER,
        DAMPING,
    ],
};

const BITS: Parameter = Parameter {
    name: "bits",
    title: "Bits",
    help: "Bits of a weight's code. The authors use 3 and 4.",
    kind: Kind::Integer { min: 2, max: 8, default: 3, usual: &[2, 3, 4] },
    only_when: None,
};

const GROUP_SIZE: Parameter = Parameter {
    name: "group_size",
    title: "Group size",
    help: "Inputs that share a scale and a zero point. The last group of a row may be shorter.",
    kind: Kind::Integer { min: 8, max: 256, default: 16, usual: &[8, 16, 32, 64] },
    only_when: None,
};

const STATISTICS: Parameter = Parameter {
    name: "statistics",
    title: "Scales and zero points",
    help: "How scales and zero points of groups are stored.",
    kind: Kind::Choice(&[
        Option_ {
            id: "codes",
            title: "As codes",
            help: "In few bits, on grids that some rows share: what makes groups of 16 cheap.",
        },
        Option_ {
            id: "plain",
            title: "Plain",
            help: "Scales in 16 bits or more, zero points in as many bits as a code.",
        },
    ]),
    only_when: None,
};

const STATISTIC_BITS: Parameter = Parameter {
    name: "statistic_bits",
    title: "Bits of a scale",
    help: "Bits of the code of a scale, and of a zero point.",
    kind: Kind::Integer { min: 2, max: 8, default: 3, usual: &[3, 4, 6] },
    only_when: Some(("statistics", "codes")),
};

const STATISTIC_ROWS: Parameter = Parameter {
    name: "statistic_rows",
    title: "Rows of a tile",
    help: "Rows whose scales share a grid, and whose zero points do; each tile costs four numbers.",
    kind: Kind::Integer { min: 4, max: 128, default: 16, usual: &[8, 16, 32, 64] },
    only_when: Some(("statistics", "codes")),
};

const SHARE: Parameter = Parameter {
    name: "share",
    title: "Room for outliers",
    help: "Share of the weights that may keep a value of their own. Each costs 16 bits and its column, 8 to 16 bits more, used or not: 0.01 is some 0.3 bits a weight.",
    kind: Kind::Fraction { min: 0.0, max: 1.0, default: 0.01 },
    only_when: None,
};

const THRESHOLD: Parameter = Parameter {
    name: "threshold",
    title: "Threshold",
    help: "Weights that would leave more error than this, in units of the mean variance of a column, are outliers. 0 uses all the room; the authors use 0.2 and as many as there are.",
    kind: Kind::Fraction { min: 0.0, max: 10.0, default: 0.0 },
    only_when: None,
};

/// Codes and grids of all rows.
fn base(small: &Small, shape: MatrixShape, rows: &[Row]) -> Encoding {
    let codes = rows.iter().flat_map(|row| row.codes.iter().copied()).collect();
    let Some(layout) = small.second else {
        let fits = || rows.iter().flat_map(|row| &row.fits);
        let scales = fits().map(|fit| fit.scale).collect();
        let zeros = fits().map(|fit| fit.zero as u8).collect();
        let data = AffineData { codes, scales, zeros };
        return Encoding::Affine(Affine::new(shape, small.affine().clone(), data));
    };
    let marks = || rows.iter().flat_map(|row| &row.marks);
    let data = BilevelData {
        codes,
        scales: marks().map(|mark| mark[0]).collect(),
        zeros: marks().map(|mark| mark[1]).collect(),
        statistics: rows.iter().flat_map(|row| row.statistics.iter().copied()).collect(),
    };
    Encoding::Bilevel(Bilevel::new(shape, layout, data))
}

/// The outliers of all rows, and zeros where there is room for more.
fn outliers(layout: OutliersLayout, shape: MatrixShape, rows: &[Row]) -> Outliers {
    let mut found: Vec<(usize, f32)> =
        rows.iter().flat_map(|row| row.found.iter().map(|one| (one.place, one.value))).collect();
    found.sort_unstable_by_key(|(place, _)| *place);
    let mut missing = layout.kept - found.len();
    let mut all = Vec::with_capacity(layout.kept);
    let mut at = 0;
    for one in found.into_iter().chain([(shape.elements(), 0.0)]) {
        let free = missing.min(one.0 - at);
        all.extend((at..at + free).map(|place| (place, 0.0)));
        (missing, at) = (missing - free, one.0 + 1);
        all.push(one);
    }
    all.pop();
    let (places, values): (Vec<usize>, Vec<f32>) = all.into_iter().unzip();
    Outliers::new(shape, layout.dtype, &places, &values)
}

impl Method for Spqr {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn label(&self, parameters: &Resolved) -> String {
        let (bits, group) = (parameters.integer("bits"), parameters.integer("group_size"));
        let share = match parameters.fraction("share") {
            0.0 => String::new(),
            share => format!(" + {} %", share * 100.0),
        };
        format!("{bits}-bit g{group} spqr{share}")
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        let small = Small::new(parameters, input.dtype);
        let base = SparseLayout::over(input.previous, small.layout());
        let few = layout_of(parameters, input.shape, input.dtype);
        if few.kept == 0 {
            return Ok(base);
        }
        let correction = Box::new(Layout::Outliers(few));
        Ok(Layout::Sum(SumLayout { base: Box::new(base), correction }))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let (small, shape) = (Small::new(parameters, task.dtype), task.shape());
        let (gram, (values, mask)) = (task.gram()?, masked(&task));
        let is_late = parameters.choice("order") == "columns";
        let order = if is_late { (0..shape.cols).collect() } else { gptq::by_activation(&gram) };
        let factor = task.inverse_factor(&gram, order, parameters.fraction("damping"))?;
        let few = layout_of(parameters, shape, task.dtype);
        let search = Search::new(&task, (&values, mask), &factor, (&small, is_late, few));
        let rows = search.rows(parameters.fraction("threshold"))?;
        let base = Sparse::over(mask, base(&small, shape, &rows));
        if few.kept == 0 {
            return Ok(base);
        }
        let few = Encoding::Outliers(outliers(few, shape, &rows));
        Ok(Encoding::Sum(Sum::new(base, few)))
    }
}

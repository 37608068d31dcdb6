//! Figures as plain data: axes with units, series by meaning. Drawn in the window by `widgets::plot`, saved as SVG,
//! PNG and CSV from here, so that what is saved is what was seen. Knows neither egui nor the engine.

mod csv;
mod heat;
mod png;
mod svg;
mod ticks;

pub use csv::csv;
pub use heat::HeatFigure;
pub use png::{PngError, png};
pub use svg::svg;
pub use ticks::{Tick, compact, ticks};

/// How values are laid along an axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scale {
    /// By value.
    #[default]
    Linear,
    /// By the decimal logarithm; values that are not positive have no place.
    Log,
}

/// An axis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Axis {
    /// What it shows.
    pub label: String,
    /// Its unit; empty for plain numbers.
    pub unit: String,
    /// How values are laid along it.
    pub scale: Scale,
    /// Whether a logarithm makes sense.
    pub can_be_log: bool,
}

impl Axis {
    /// A linear axis of plain numbers.
    pub fn new(label: &str) -> Self {
        Self { label: label.to_owned(), ..Self::default() }
    }

    /// The same with a unit.
    pub fn in_unit(self, unit: &str) -> Self {
        Self { unit: unit.to_owned(), ..self }
    }

    /// The same as one that may be switched to a logarithm, beginning with `scale`.
    pub fn or_log(self, scale: Scale) -> Self {
        Self { scale, can_be_log: true, ..self }
    }

    /// Label and unit, as `count [weights]`.
    pub fn title(&self) -> String {
        if self.unit.is_empty() {
            self.label.clone()
        } else {
            format!("{} [{}]", self.label, self.unit)
        }
    }

    /// Where a value lies: itself, or its logarithm; `None` where it has none.
    pub fn place(&self, value: f64) -> Option<f64> {
        let place = match self.scale {
            Scale::Linear => value,
            Scale::Log => value.log10(),
        };
        place.is_finite().then_some(place)
    }

    /// The value at a place.
    pub fn value(&self, place: f64) -> f64 {
        match self.scale {
            Scale::Linear => place,
            Scale::Log => 10_f64.powf(place),
        }
    }
}

/// A colour by meaning; the theme has the colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// The data of the n-th layer laid over one another, 0 to 7.
    Data(usize),
    /// A fitted curve.
    Fit,
    /// Another fitted curve.
    OtherFit,
    /// Levels of a quantisation grid.
    Grid,
    /// A mark.
    Mark,
    /// Another mark.
    OtherMark,
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Points joined by a line.
    Line,
    /// The same, dashed.
    Dashed,
    /// Bars of this width around each point.
    Bars(f64),
    /// Dots.
    Points,
    /// A vertical line at the x of each point.
    Vertical,
    /// A horizontal line at the y of each point.
    Horizontal,
}

/// Values that belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Its colour.
    pub ink: Ink,
    /// How it is drawn.
    pub kind: Kind,
    /// Pairs of x and y.
    pub points: Vec<[f64; 2]>,
}

impl Series {
    /// A series.
    pub fn new(name: &str, ink: Ink, kind: Kind, points: Vec<[f64; 2]>) -> Self {
        Self { name: name.to_owned(), ink, kind, points }
    }

    /// A mark at one x.
    pub fn at(name: &str, ink: Ink, x: f64) -> Self {
        Self::new(name, ink, Kind::Vertical, vec![[x, 0.0]])
    }
}

/// A figure.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figure {
    /// What it shows.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// What is drawn, the first below the others.
    pub series: Vec<Series>,
}

/// Lowest and highest place on an axis.
pub type Extent = (f64, f64);

impl Figure {
    /// The places all series need, with a little air; 0 to 1 where there is nothing.
    pub fn extents(&self) -> (Extent, Extent) {
        let mut x = (f64::INFINITY, f64::NEG_INFINITY);
        let mut y = x;
        let widen = |extent: &mut Extent, place: Option<f64>| {
            if let Some(place) = place {
                *extent = (extent.0.min(place), extent.1.max(place));
            }
        };
        for series in &self.series {
            let half = if let Kind::Bars(width) = series.kind { width / 2.0 } else { 0.0 };
            for &[px, py] in &series.points {
                if series.kind != Kind::Horizontal {
                    widen(&mut x, self.x.place(px - half));
                    widen(&mut x, self.x.place(px + half));
                }
                if series.kind != Kind::Vertical {
                    widen(&mut y, self.y.place(py));
                }
            }
            if half > 0.0 && self.y.scale == Scale::Linear {
                widen(&mut y, Some(0.0));
            }
        }
        (aired(x, 0.0), aired(y, 0.05))
    }

    /// The same without what fitted curves have far below everything else on a logarithmic axis, which would only stretch it.
    #[must_use]
    pub fn without_tails(mut self) -> Self {
        if self.y.scale != Scale::Log {
            return self;
        }
        let is_fit =
            |of: &Series| of.kind == Kind::Dashed && matches!(of.ink, Ink::Fit | Ink::OtherFit);
        let bars = self.series.iter().filter(|of| matches!(of.kind, Kind::Bars(_)));
        let heights = bars.flat_map(|of| &of.points).map(|point| point[1]);
        let least = heights.filter(|&height| height > 0.0).fold(f64::INFINITY, f64::min);
        if least.is_finite() {
            for series in self.series.iter_mut().filter(|of| is_fit(of)) {
                series.points.retain(|point| point[1] >= least / 2.0);
            }
        }
        self
    }

    /// Points that have no place because they are not positive on a logarithmic axis.
    pub fn dropped(&self) -> usize {
        let is_dropped = |series: &&Series, [x, y]: &[f64; 2]| match series.kind {
            Kind::Vertical => self.x.place(*x).is_none(),
            Kind::Horizontal => self.y.place(*y).is_none(),
            _ => self.x.place(*x).is_none() || self.y.place(*y).is_none(),
        };
        self.series.iter().map(|s| s.points.iter().filter(|p| is_dropped(&s, p)).count()).sum()
    }
}

fn aired((low, high): Extent, air: f64) -> Extent {
    if low > high {
        return (0.0, 1.0);
    }
    if low == high {
        let half = if low == 0.0 { 0.5 } else { low.abs() * 0.1 };
        return (low - half, high + half);
    }
    (low, high + air * (high - low))
}

/// Anything that can be saved as a picture or as numbers.
#[derive(Clone, Debug, PartialEq)]
pub enum Drawing {
    /// Lines on axes.
    Plot(Figure),
    /// A picture of a matrix.
    Heat(HeatFigure),
}

impl Drawing {
    /// What it shows.
    pub fn title(&self) -> &str {
        match self {
            Self::Plot(figure) => &figure.title,
            Self::Heat(heat) => &heat.title,
        }
    }

    /// The bytes of a file: `width × height` units, `scale` pixels for each in a picture.
    ///
    /// # Errors
    /// If a picture cannot be drawn or encoded.
    pub fn bytes(
        &self,
        format: Format,
        (width, height): (f64, f64),
        scale: f64,
    ) -> Result<Vec<u8>, PngError> {
        Ok(match (self, format) {
            (Self::Plot(figure), Format::Csv) => csv(figure).into_bytes(),
            (Self::Plot(figure), Format::Svg) => svg(figure, width, height).into_bytes(),
            (Self::Plot(figure), Format::Png) => png(figure, width, height, scale)?,
            (Self::Heat(heat), Format::Csv) => heat.csv().into_bytes(),
            (Self::Heat(heat), Format::Svg) => heat.svg(width, height)?.into_bytes(),
            (Self::Heat(heat), Format::Png) => heat.png(width, height, scale)?,
        })
    }
}

/// As what a figure is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Pixels.
    Png,
    /// Lines that scale.
    Svg,
    /// Numbers.
    Csv,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::Png, Self::Svg, Self::Csv];

    /// Its name.
    pub fn title(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Svg => "SVG",
            Self::Csv => "CSV",
        }
    }

    /// The ending of its files.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Svg => "svg",
            Self::Csv => "csv",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_have_no_place_on_a_logarithmic_axis() {
        let y = Axis::new("count").in_unit("weights").or_log(Scale::Log);
        assert_eq!(y.title(), "count [weights]");
        let points = vec![[0.0, 0.0], [1.0, 10.0], [2.0, 1000.0]];
        let series = vec![Series::new("a", Ink::Data(0), Kind::Line, points)];
        let figure = Figure { y, series, ..Figure::default() };
        assert_eq!(figure.dropped(), 1);
        let (x, y) = figure.extents();
        assert_eq!((x, y.0), ((0.0, 2.0), 1.0));
        assert!((figure.y.value(figure.y.place(10.0).unwrap()) - 10.0).abs() < 1e-9);
    }

    #[test]
    fn fits_reach_as_far_as_the_axis_and_stop_low_on_a_logarithmic_one() {
        let bars = vec![[0.0, 8.0], [1.0, 1.0], [2.0, 0.0]];
        let fit = vec![[0.0, 6.0], [1.0, 0.6], [2.0, 1e-9]];
        let series = vec![
            Series::new("weights", Ink::Data(0), Kind::Bars(1.0), bars),
            Series::new("normal", Ink::Fit, Kind::Dashed, fit),
        ];
        let figure = Figure { series, ..Figure::default() };
        assert_eq!(figure.clone().without_tails(), figure);
        let y = Axis { scale: Scale::Log, ..Axis::default() };
        let cut = Figure { y, ..figure }.without_tails();
        assert_eq!((cut.series[0].points.len(), cut.series[1].points.len()), (3, 2));
    }

    #[test]
    fn bars_stand_on_zero_and_nothing_has_an_extent() {
        let bars = Series::new("h", Ink::Data(0), Kind::Bars(2.0), vec![[1.0, 5.0], [3.0, 7.0]]);
        let figure = Figure { series: vec![bars], ..Figure::default() };
        let (x, y) = figure.extents();
        assert_eq!((x, y.0), ((0.0, 4.0), 0.0));
        assert_eq!(Figure::default().extents(), ((0.0, 1.0), (0.0, 1.0)));
    }
}

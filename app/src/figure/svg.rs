//! A figure as SVG: one file with nothing outside it, on white, fit for a paper.

use std::fmt::Write as _;

use crate::figure::{Extent, Figure, Ink, Kind, Series, Tick, ticks};

const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 46.0;
const TEXT: &str = "#222222";
const FAINT: &str = "#dddddd";

/// Okabe-Ito's colours for data (readable for colour-blind people), and others that stand apart from them.
fn colour(ink: Ink) -> &'static str {
    const DATA: [&str; 8] =
        ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#5b3a8c", "#444444"];
    match ink {
        Ink::Data(i) => DATA[i % DATA.len()],
        Ink::Fit => "#333333",
        Ink::OtherFit => "#999999",
        Ink::Grid => "#e08214",
        Ink::Mark => "#b30000",
        Ink::OtherMark => "#1b7837",
    }
}

/// From places on the axes to points of the drawing.
pub(super) struct Frame {
    x: Extent,
    y: Extent,
    width: f64,
    height: f64,
}

impl Frame {
    pub(super) fn across(&self, place: f64) -> f64 {
        let share = (place - self.x.0) / (self.x.1 - self.x.0);
        LEFT + share * (self.width - LEFT - RIGHT)
    }

    pub(super) fn down(&self, place: f64) -> f64 {
        let share = (place - self.y.0) / (self.y.1 - self.y.0);
        self.height - BOTTOM - share * (self.height - TOP - BOTTOM)
    }
}

/// The figure as a drawing of that many units.
pub fn svg(figure: &Figure, width: f64, height: f64) -> String {
    document(figure, figure.extents(), (width, height), &|frame| {
        let mut out = String::new();
        for series in &figure.series {
            draw(&mut out, figure, frame, series);
        }
        out
    })
}

/// A drawing with the axes of a figure and something inside them.
pub(super) fn document(
    figure: &Figure,
    (x, y): (Extent, Extent),
    (width, height): (f64, f64),
    inside: &dyn Fn(&Frame) -> String,
) -> String {
    let frame = Frame { x, y, width, height };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"Ubuntu, Helvetica, Arial, sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    axes(&mut out, figure, &frame);
    let (inner_width, inner_height) = (width - LEFT - RIGHT, height - TOP - BOTTOM);
    add(
        &mut out,
        format_args!(
            "<clipPath id=\"inside\"><rect x=\"{LEFT}\" y=\"{TOP}\" width=\"{inner_width}\" height=\"{inner_height}\"/></clipPath>\n<g clip-path=\"url(#inside)\">\n{}</g>\n",
            inside(&frame)
        ),
    );
    legend(&mut out, figure, width);
    out.push_str("</svg>\n");
    out
}

/// Writing to a string does not fail.
fn add(out: &mut String, what: std::fmt::Arguments<'_>) {
    out.write_fmt(what).ok();
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// An axis may run downwards.
fn ascending((a, b): Extent) -> Extent {
    (a.min(b), a.max(b))
}

fn axes(out: &mut String, figure: &Figure, frame: &Frame) {
    let (bottom, right) = (frame.height - BOTTOM, frame.width - RIGHT);
    let stroke = |tick: &Tick| if tick.label.is_empty() { "0.4" } else { "1" };
    for tick in ticks(ascending(frame.x), 6, figure.x.scale) {
        let x = frame.across(tick.place);
        add(
            out,
            format_args!(
                "<line x1=\"{x:.2}\" y1=\"{TOP}\" x2=\"{x:.2}\" y2=\"{bottom}\" stroke=\"{FAINT}\" stroke-width=\"{}\"/><text x=\"{x:.2}\" y=\"{:.2}\" text-anchor=\"middle\" fill=\"{TEXT}\">{}</text>\n",
                stroke(&tick),
                bottom + 16.0,
                escaped(&tick.label)
            ),
        );
    }
    for tick in ticks(ascending(frame.y), 5, figure.y.scale) {
        let y = frame.down(tick.place);
        add(
            out,
            format_args!(
                "<line x1=\"{LEFT}\" y1=\"{y:.2}\" x2=\"{right}\" y2=\"{y:.2}\" stroke=\"{FAINT}\" stroke-width=\"{}\"/><text x=\"{:.2}\" y=\"{:.2}\" text-anchor=\"end\" fill=\"{TEXT}\">{}</text>\n",
                stroke(&tick),
                LEFT - 6.0,
                y + 4.0,
                escaped(&tick.label)
            ),
        );
    }
    add(
        out,
        format_args!(
            "<rect x=\"{LEFT}\" y=\"{TOP}\" width=\"{:.2}\" height=\"{:.2}\" fill=\"none\" stroke=\"{TEXT}\"/>\n",
            right - LEFT,
            bottom - TOP
        ),
    );
    add(
        out,
        format_args!(
            "<text x=\"{LEFT}\" y=\"20\" font-size=\"14\" fill=\"{TEXT}\">{}</text>\n",
            escaped(&figure.title)
        ),
    );
    add(
        out,
        format_args!(
            "<text x=\"{:.2}\" y=\"{:.2}\" text-anchor=\"middle\" fill=\"{TEXT}\">{}</text>\n",
            f64::midpoint(LEFT, right),
            frame.height - 10.0,
            escaped(&figure.x.title())
        ),
    );
    let middle = f64::midpoint(TOP, bottom);
    add(
        out,
        format_args!(
            "<text transform=\"translate(16 {middle:.2}) rotate(-90)\" text-anchor=\"middle\" fill=\"{TEXT}\">{}</text>\n",
            escaped(&figure.y.title())
        ),
    );
}

fn draw(out: &mut String, figure: &Figure, frame: &Frame, series: &Series) {
    let stroke = colour(series.ink);
    let place =
        |[x, y]: [f64; 2]| Some((frame.across(figure.x.place(x)?), frame.down(figure.y.place(y)?)));
    let (bottom, right) = (frame.height - BOTTOM, frame.width - RIGHT);
    match series.kind {
        Kind::Line | Kind::Dashed => {
            let dash = if series.kind == Kind::Dashed { " stroke-dasharray=\"5 3\"" } else { "" };
            let mut path = String::new();
            for point in &series.points {
                if let Some((x, y)) = place(*point) {
                    add(&mut path, format_args!("{x:.2},{y:.2} "));
                }
            }
            add(
                out,
                format_args!(
                    "<polyline fill=\"none\" stroke=\"{stroke}\" stroke-width=\"1.5\"{dash} points=\"{path}\"/>\n"
                ),
            );
        }
        Kind::Bars(width) => {
            for &[x, y] in &series.points {
                let edges = (figure.x.place(x - width / 2.0), figure.x.place(x + width / 2.0));
                if let ((Some(low), Some(high)), Some((_, top))) = (edges, place([x, y])) {
                    let (left, wide) = (frame.across(low), frame.across(high) - frame.across(low));
                    add(
                        out,
                        format_args!(
                            "<rect x=\"{left:.2}\" y=\"{top:.2}\" width=\"{wide:.2}\" height=\"{:.2}\" fill=\"{stroke}\" fill-opacity=\"0.75\"/>\n",
                            (bottom - top).max(0.0)
                        ),
                    );
                }
            }
        }
        Kind::Points => {
            for (x, y) in series.points.iter().filter_map(|point| place(*point)) {
                add(
                    out,
                    format_args!(
                        "<circle cx=\"{x:.2}\" cy=\"{y:.2}\" r=\"2\" fill=\"{stroke}\"/>\n"
                    ),
                );
            }
        }
        Kind::Vertical => {
            for x in series.points.iter().filter_map(|[x, _]| figure.x.place(*x)) {
                let x = frame.across(x);
                add(
                    out,
                    format_args!(
                        "<line x1=\"{x:.2}\" y1=\"{TOP}\" x2=\"{x:.2}\" y2=\"{bottom}\" stroke=\"{stroke}\"/>\n"
                    ),
                );
            }
        }
        Kind::Horizontal => {
            for y in series.points.iter().filter_map(|[_, y]| figure.y.place(*y)) {
                let y = frame.down(y);
                add(
                    out,
                    format_args!(
                        "<line x1=\"{LEFT}\" y1=\"{y:.2}\" x2=\"{right}\" y2=\"{y:.2}\" stroke=\"{stroke}\"/>\n"
                    ),
                );
            }
        }
    }
}

fn legend(out: &mut String, figure: &Figure, width: f64) {
    for (i, series) in figure.series.iter().enumerate() {
        let (x, y) = (width - RIGHT - 10.0, TOP + 16.0 + 16.0 * i as f64);
        add(
            out,
            format_args!(
                "<text x=\"{:.2}\" y=\"{y:.2}\" text-anchor=\"end\" fill=\"{TEXT}\">{}</text><rect x=\"{:.2}\" y=\"{:.2}\" width=\"8\" height=\"8\" fill=\"{}\"/>\n",
                x - 6.0,
                escaped(&series.name),
                x - 1.0,
                y - 8.0,
                colour(series.ink)
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::{Axis, Scale};

    #[test]
    fn names_are_escaped_and_zeros_dropped_on_a_logarithmic_axis() {
        let points = vec![[1.0, 0.0], [2.0, 10.0], [3.0, 100.0]];
        let series = vec![Series::new("σ < 1 & more", Ink::Data(1), Kind::Line, points)];
        let y = Axis::new("σ").or_log(Scale::Log);
        let text = svg(&Figure { y, series, ..Figure::default() }, 400.0, 300.0);
        assert!(text.contains("σ &lt; 1 &amp; more"));
        let line = text.split("points=\"").nth(1).and_then(|rest| rest.split('"').next());
        assert_eq!(line.unwrap().split_whitespace().count(), 2, "the zero has no place");
    }
}

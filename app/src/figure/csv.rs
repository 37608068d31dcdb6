//! A figure as comma-separated values.

use std::fmt::Write as _;

use crate::figure::Figure;

/// A line for each point: series, x, y, in full precision, after a head; quoted after RFC 4180.
pub fn csv(figure: &Figure) -> String {
    let quoted = |text: &str| {
        if text.contains([',', '"', '\n']) {
            format!("\"{}\"", text.replace('"', "\"\""))
        } else {
            text.to_owned()
        }
    };
    let mut out = format!("series,{},{}\n", quoted(&figure.x.title()), quoted(&figure.y.title()));
    for series in &figure.series {
        let name = quoted(&series.name);
        for [x, y] in &series.points {
            // Writing to a string does not fail.
            writeln!(out, "{name},{x},{y}").ok();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::{Ink, Kind, Series};

    #[test]
    fn points_come_back_as_they_were() {
        let points = vec![[0.1, 1.0 / 3.0], [-2e-300, 7e9]];
        let series = vec![Series::new("a, \"b\"", Ink::Data(0), Kind::Line, points.clone())];
        let text = csv(&Figure { series, ..Figure::default() });
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("series,,"));
        let parsed: Vec<[f64; 2]> = lines
            .map(|line| {
                let rest = line.strip_prefix("\"a, \"\"b\"\"\",").expect("the quoted name");
                let (x, y) = rest.split_once(',').expect("two numbers");
                [x.parse().unwrap(), y.parse().unwrap()]
            })
            .collect();
        assert_eq!(parsed, points);
    }
}

//! A picture of a matrix as a figure: its cells with their places, saved as pixels in a frame, or as numbers.

use std::fmt::Write as _;
use std::io::Cursor;

use base64::Engine as _;

use crate::figure::png::{PngError, rasterise};
use crate::figure::svg::{Frame, document};
use crate::figure::{Axis, Figure};

/// A picture of a matrix.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeatFigure {
    /// What it shows.
    pub title: String,
    /// What the cells hold, with the range of the colours.
    pub quantity: String,
    /// Row and column of weights of the first cell.
    pub first: [usize; 2],
    /// Rows and columns of weights a cell stands for.
    pub step: usize,
    /// Cells in a row.
    pub width: usize,
    /// The values, row by row.
    pub values: Vec<f32>,
    /// Their colours.
    pub colours: Vec<[u8; 3]>,
}

impl HeatFigure {
    fn height(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or(0)
    }

    /// A line for each cell: the row and column of its first weight, and the value.
    pub fn csv(&self) -> String {
        let mut out = format!("row,column,{}\n", self.quantity.replace([',', '"', '\n'], ";"));
        for (i, value) in self.values.iter().enumerate() {
            let row = self.first[0] + i / self.width * self.step;
            let col = self.first[1] + i % self.width * self.step;
            // Writing to a string does not fail.
            writeln!(out, "{row},{col},{value}").ok();
        }
        out
    }

    /// The picture in a frame with rows and columns, as SVG.
    ///
    /// # Errors
    /// If the pixels cannot be encoded.
    pub fn svg(&self, width: f64, height: f64) -> Result<String, PngError> {
        let pixels: Vec<u8> = self.colours.iter().flatten().copied().collect();
        let (across, down) = (self.width as u32, self.height() as u32);
        let image =
            image::RgbImage::from_raw(across, down, pixels).ok_or(PngError::Size(across, down))?;
        let mut encoded = Cursor::new(Vec::new());
        let written = image.write_to(&mut encoded, image::ImageFormat::Png);
        written.map_err(|error| PngError::Encoding(error.to_string()))?;
        let data = base64::engine::general_purpose::STANDARD.encode(encoded.into_inner());
        let figure = Figure {
            title: format!("{}: {}", self.title, self.quantity),
            x: Axis::new("input column"),
            y: Axis::new("output row"),
            series: Vec::new(),
        };
        let end = |axis: usize, n: usize| (self.first[axis] + n * self.step) as f64;
        let x = (self.first[1] as f64, end(1, self.width));
        // Row 0 stands at the top.
        let y = (end(0, self.height()), self.first[0] as f64);
        Ok(document(&figure, (x, y), (width, height), &|frame: &Frame| {
            let (left, right) = (frame.across(x.0), frame.across(x.1));
            let (top, bottom) = (frame.down(y.1), frame.down(y.0));
            format!(
                "<image x=\"{left:.2}\" y=\"{top:.2}\" width=\"{:.2}\" height=\"{:.2}\" preserveAspectRatio=\"none\" image-rendering=\"pixelated\" style=\"image-rendering:pixelated\" href=\"data:image/png;base64,{data}\"/>\n",
                right - left,
                bottom - top
            )
        }))
    }

    /// The same as PNG, `scale` pixels for each unit.
    ///
    /// # Errors
    /// As [`HeatFigure::svg`], and for sizes beyond memory.
    pub fn png(&self, width: f64, height: f64, scale: f64) -> Result<Vec<u8>, PngError> {
        rasterise(&self.svg(width, height)?, (width, height), scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heat() -> HeatFigure {
        HeatFigure {
            title: "3 · down".to_owned(),
            quantity: "|w| from 0 to 1".to_owned(),
            first: [128, 256],
            step: 4,
            width: 3,
            values: vec![0.0, 0.5, 1.0, 0.25, 0.75, 0.125],
            colours: [[255, 0, 0], [0, 255, 0], [0, 0, 255]].repeat(2),
        }
    }

    #[test]
    fn numbers_carry_their_place_in_the_matrix() {
        let csv = heat().csv();
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines[0], "row,column,|w| from 0 to 1");
        assert_eq!((lines[1], lines[6]), ("128,256,0", "132,264,0.125"));
    }

    #[test]
    fn pixels_keep_their_place_and_colour() {
        let bytes = heat().png(300.0, 200.0, 1.0).unwrap();
        let image = image::load_from_memory(&bytes).unwrap().to_rgb8();
        let is = |x: u32, wanted: usize| {
            let pixel = image.get_pixel(x, 90).0;
            (0..3).all(|channel| (pixel[channel] > 200) == (channel == wanted))
        };
        assert!(is(80, 0) && is(170, 1) && is(270, 2), "red, green and blue from left to right");
    }
}

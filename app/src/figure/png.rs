//! A figure in pixels: its SVG, rasterised with the fonts of the program, so that no system font is needed.

use std::sync::Arc;

use resvg::{tiny_skia, usvg};

use crate::figure::{Figure, svg};

/// Why a figure could not be drawn in pixels.
#[derive(Debug, thiserror::Error)]
pub enum PngError {
    /// The drawing was not understood.
    #[error("cannot draw the figure: {0}")]
    Drawing(#[from] usvg::Error),
    /// The size is zero or too large.
    #[error("a picture of {0} × {1} pixels cannot be made")]
    Size(u32, u32),
    /// The pixels could not be encoded.
    #[error("cannot encode the picture: {0}")]
    Encoding(String),
}

/// The figure as PNG: `width × height` units at `scale` pixels each.
///
/// # Errors
/// For sizes of zero or beyond memory.
pub fn png(figure: &Figure, width: f64, height: f64, scale: f64) -> Result<Vec<u8>, PngError> {
    rasterise(&svg(figure, width, height), (width, height), scale)
}

/// A drawing in pixels, `scale` for each unit.
pub(super) fn rasterise(
    drawing: &str,
    (width, height): (f64, f64),
    scale: f64,
) -> Result<Vec<u8>, PngError> {
    let mut options = usvg::Options::default();
    let fonts = Arc::make_mut(&mut options.fontdb);
    fonts.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
    // Letters the first lacks, as σ, come from the second.
    fonts.load_font_data(epaint_default_fonts::HACK_REGULAR.to_vec());
    fonts.set_sans_serif_family("Ubuntu");
    let tree = usvg::Tree::from_str(drawing, &options)?;
    let (columns, rows) = ((width * scale) as u32, (height * scale) as u32);
    let mut pixels = tiny_skia::Pixmap::new(columns, rows).ok_or(PngError::Size(columns, rows))?;
    let transform = tiny_skia::Transform::from_scale(scale as f32, scale as f32);
    resvg::render(&tree, transform, &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| PngError::Encoding(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::{Axis, Ink, Kind, Scale, Series};

    #[test]
    fn a_picture_has_the_asked_size_and_shows_text_and_data() {
        let points = (1..100).map(|i| [f64::from(i), 1.0 / f64::from(i)]).collect();
        let figure = Figure {
            title: "Singular values σ of 3 · down".to_owned(),
            x: Axis::new("index i"),
            y: Axis::new("σ").or_log(Scale::Log),
            series: vec![Series::new("σ", Ink::Data(0), Kind::Line, points)],
        };
        let bytes = png(&figure, 300.0, 200.0, 2.0).unwrap();
        let image = image::load_from_memory(&bytes).unwrap().to_rgb8();
        assert_eq!(image.dimensions(), (600, 400));
        let count = |is: fn(&[u8; 3]) -> bool| image.pixels().filter(|p| is(&p.0)).count();
        assert!(count(|[r, g, b]| *r < 40 && *g > 90 && *b > 150) > 100, "the blue line");
        // The title is the only dark thing above the frame.
        let title = image.rows().take(60).flatten().filter(|p| p.0[0] < 100).count();
        assert!(title > 200, "{title} dark pixels: the title was not written");
        assert!(png(&figure, 0.0, 0.0, 1.0).is_err());
    }
}

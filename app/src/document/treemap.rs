//! A treemap: rectangles whose areas are sizes, nested by block, as square as they can be.
//!
//! Squarified (Bruls, Huizing, van Wijk 2000): rows of rectangles are filled along the shorter side of what is left,
//! as long as the worst aspect ratio of the row improves.

use crate::document::map::MapLayout;

/// A rectangle: left, top, width, height.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Area {
    /// Left edge.
    pub left: f32,
    /// Upper edge.
    pub top: f32,
    /// Width.
    pub width: f32,
    /// Height.
    pub height: f32,
}

/// One rectangle of a treemap.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tile {
    /// The tensor.
    pub tensor: usize,
    /// Where it lies.
    pub area: Area,
}

/// A treemap of all tensors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Treemap {
    /// A frame for each block that has tensors, and one for the rest.
    pub blocks: Vec<(Option<u32>, Area)>,
    /// The tensors.
    pub tiles: Vec<Tile>,
}

impl Treemap {
    /// Lays out every tensor of a map in `width × height`, its area by `bytes`.
    pub fn new(map: &MapLayout, bytes: impl Fn(usize) -> u64, (width, height): (f32, f32)) -> Self {
        let sizes = |layers: &[usize]| -> Vec<f64> {
            layers.iter().map(|&layer| bytes(layer) as f64).collect()
        };
        let families: Vec<(Option<u32>, &[usize])> =
            map.families.iter().map(|family| (family.block, &family.tensors[..])).collect();
        let totals: Vec<f64> =
            families.iter().map(|(_, layers)| sizes(layers).iter().sum()).collect();
        let whole = Area { left: 0.0, top: 0.0, width, height };
        let mut treemap = Self::default();
        for ((block, layers), area) in families.iter().zip(squarify(&totals, whole)) {
            let inside = area.inset(1.5);
            let areas = squarify(&sizes(layers), inside);
            treemap.blocks.push((*block, area));
            let tiles = layers.iter().zip(areas).map(|(&tensor, area)| Tile { tensor, area });
            treemap.tiles.extend(tiles.filter(|tile| tile.area.width * tile.area.height > 0.0));
        }
        treemap
    }

    /// The tensor at a point.
    pub fn at(&self, x: f32, y: f32) -> Option<usize> {
        self.tiles.iter().find(|tile| tile.area.holds(x, y)).map(|tile| tile.tensor)
    }
}

impl Area {
    fn inset(self, by: f32) -> Self {
        let by = by.min(self.width / 4.0).min(self.height / 4.0);
        Self {
            left: self.left + by,
            top: self.top + by,
            width: self.width - 2.0 * by,
            height: self.height - 2.0 * by,
        }
    }

    fn holds(&self, x: f32, y: f32) -> bool {
        (self.left..self.left + self.width).contains(&x)
            && (self.top..self.top + self.height).contains(&y)
    }
}

/// Areas in `whole` proportional to `sizes`, in their order; nothing for sizes of zero.
pub fn squarify(sizes: &[f64], whole: Area) -> Vec<Area> {
    let mut areas = vec![Area::default(); sizes.len()];
    let total: f64 = sizes.iter().sum();
    if total <= 0.0 || whole.width <= 0.0 || whole.height <= 0.0 {
        return areas;
    }
    let mut order: Vec<usize> = (0..sizes.len()).filter(|&i| sizes[i] > 0.0).collect();
    order.sort_by(|&a, &b| sizes[b].total_cmp(&sizes[a]).then(a.cmp(&b)));
    let scale = f64::from(whole.width) * f64::from(whole.height) / total;
    let size = |i: usize| sizes[i] * scale;
    let mut left = whole;
    let mut rest = &order[..];
    while !rest.is_empty() {
        let side = f64::from(left.width.min(left.height)).max(1e-6);
        let (mut taken, mut sum) = (0, 0.0);
        let mut worst = f64::INFINITY;
        while let Some(&next) = rest.get(taken) {
            let longer = sum + size(next);
            // The first of a row is its largest, the next its smallest.
            let ratio = |area: f64| {
                let thickness = longer / side;
                (area / thickness / thickness).max(thickness * thickness / area)
            };
            let aspect = ratio(size(rest[0])).max(ratio(size(next)));
            if aspect > worst {
                break;
            }
            (worst, sum, taken) = (aspect, longer, taken + 1);
        }
        let (row, others) = rest.split_at(taken);
        left = place_row(&mut areas, row, size, (left, sum));
        rest = others;
    }
    areas
}

/// Places a row along the shorter side of `left`; gives what is left after it.
fn place_row(
    areas: &mut [Area],
    row: &[usize],
    size: impl Fn(usize) -> f64,
    (left, sum): (Area, f64),
) -> Area {
    let is_wide = left.width >= left.height;
    let side = if is_wide { left.height } else { left.width };
    let thickness = (sum / f64::from(side).max(1e-6)) as f32;
    let mut along = 0.0;
    for &i in row {
        let length = (size(i) / sum * f64::from(side)) as f32;
        areas[i] = if is_wide {
            Area { left: left.left, top: left.top + along, width: thickness, height: length }
        } else {
            Area { left: left.left + along, top: left.top, width: length, height: thickness }
        };
        along += length;
    }
    if is_wide {
        Area { left: left.left + thickness, width: (left.width - thickness).max(0.0), ..left }
    } else {
        Area { top: left.top + thickness, height: (left.height - thickness).max(0.0), ..left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Area = Area { left: 0.0, top: 0.0, width: 60.0, height: 40.0 };

    #[test]
    fn areas_are_proportional_and_fill_the_whole_without_overlap() {
        let sizes = [6.0, 6.0, 4.0, 3.0, 2.0, 2.0, 1.0, 0.0];
        let areas = squarify(&sizes, WHOLE);
        let total: f64 = sizes.iter().sum();
        for (area, size) in areas.iter().zip(sizes) {
            let wanted = 2400.0 * size / total;
            assert!((f64::from(area.width * area.height) - wanted).abs() < 0.01, "{area:?}");
            let ratio = area.width.max(area.height) / area.width.min(area.height);
            assert!(size == 0.0 || ratio < 3.0, "{area:?} is a sliver");
        }
        for (i, a) in areas.iter().enumerate() {
            for b in &areas[i + 1..] {
                let overlaps = a.left + a.width > b.left + 0.01
                    && b.left + b.width > a.left + 0.01
                    && a.top + a.height > b.top + 0.01
                    && b.top + b.height > a.top + 0.01;
                assert!(!overlaps, "{a:?} and {b:?} overlap");
            }
        }
    }

    #[test]
    fn nothing_and_ten_thousand_are_laid_out() {
        assert_eq!(squarify(&[], WHOLE), []);
        assert_eq!(squarify(&[0.0], WHOLE), [Area::default()]);
        let many = squarify(&vec![1.0; 10_000], WHOLE);
        assert!(many.iter().all(|area| area.width > 0.0 && area.left + area.width < 60.1));
    }
}

//! A rectangle of a large plane shown in a small window: zooming about a point, panning, staying inside.

use egui::{Pos2, Rect, Response, Ui, Vec2, pos2, vec2};

/// Units of the plane that stay visible at the deepest zoom.
const LEAST_EXTENT: f64 = 4.0;

/// What part of a plane of `[rows, cols]` is shown. In units of the plane, from its upper left corner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Zoom {
    /// Size of the plane: columns and rows.
    pub plane: [f64; 2],
    /// Left and upper edge of the part.
    pub corner: [f64; 2],
    /// Width and height of the part.
    pub extent: [f64; 2],
}

impl Zoom {
    /// The whole plane.
    pub fn whole(cols: usize, rows: usize) -> Self {
        let plane = [cols.max(1) as f64, rows.max(1) as f64];
        Self { plane, corner: [0.0; 2], extent: plane }
    }

    /// Whether all of the plane is shown.
    pub fn is_whole(&self) -> bool {
        self.extent == self.plane
    }

    /// The point of the plane under a point of the window.
    pub fn under(&self, window: Rect, point: Pos2) -> [f64; 2] {
        let share = (point - window.min) / window.size();
        [
            self.corner[0] + f64::from(share.x) * self.extent[0],
            self.corner[1] + f64::from(share.y) * self.extent[1],
        ]
    }

    /// Where a rectangle of the plane lies in the window.
    pub fn place(&self, window: Rect, corner: [f64; 2], extent: [f64; 2]) -> Rect {
        let scale =
            vec2(window.width() / self.extent[0] as f32, window.height() / self.extent[1] as f32);
        let offset = vec2((corner[0] - self.corner[0]) as f32, (corner[1] - self.corner[1]) as f32);
        let size = vec2(extent[0] as f32, extent[1] as f32);
        Rect::from_min_size(window.min + offset * scale, size * scale)
    }

    /// The same zoomed by `factor` (above 1 is nearer), leaving the point of the plane where it is in the window.
    pub fn about(&self, point: [f64; 2], factor: f64) -> Self {
        let mut next = *self;
        for (axis, &point) in point.iter().enumerate() {
            let least = LEAST_EXTENT.min(self.plane[axis]);
            next.extent[axis] = (self.extent[axis] / factor).clamp(least, self.plane[axis]);
            let share = (point - self.corner[axis]) / self.extent[axis];
            next.corner[axis] = point - share * next.extent[axis];
        }
        next.inside()
    }

    /// The same moved by a distance in the plane.
    pub fn moved(&self, by: [f64; 2]) -> Self {
        let corner = [self.corner[0] + by[0], self.corner[1] + by[1]];
        Self { corner, ..*self }.inside()
    }

    /// The part between two points.
    pub fn between(&self, a: [f64; 2], b: [f64; 2]) -> Self {
        let mut next = *self;
        for (axis, (a, b)) in a.into_iter().zip(b).enumerate() {
            let (low, high) = (a.min(b), a.max(b));
            next.corner[axis] = low;
            next.extent[axis] =
                (high - low).clamp(LEAST_EXTENT.min(self.plane[axis]), self.plane[axis]);
        }
        next.inside()
    }

    /// A part of some 32 units around a point.
    pub fn near(&self, point: [f64; 2]) -> Self {
        self.between([point[0] - 16.0, point[1] - 16.0], [point[0] + 16.0, point[1] + 16.0])
    }

    fn inside(mut self) -> Self {
        for axis in 0..2 {
            self.corner[axis] = self.corner[axis].clamp(0.0, self.plane[axis] - self.extent[axis]);
        }
        self
    }

    /// Answers the pointer: the wheel zooms, dragging pans, dragging with the other button zooms into a box,
    /// a double-click shows all. Keys: + and − zoom, 0 shows all, while the window has the focus.
    pub fn answer(&mut self, ui: &Ui, response: &Response, anchor: &mut Option<Pos2>) {
        let window = response.rect;
        if response.double_clicked() {
            *self = Self { corner: [0.0; 2], extent: self.plane, ..*self };
        }
        if response.dragged_by(egui::PointerButton::Primary) {
            let share = response.drag_delta() / window.size();
            let by = [-f64::from(share.x) * self.extent[0], -f64::from(share.y) * self.extent[1]];
            *self = self.moved(by);
        }
        if let Some(point) = response.hover_pos() {
            let (scroll, pinch): (Vec2, f32) =
                ui.input(|input| (input.smooth_scroll_delta(), input.zoom_delta()));
            let factor = f64::from((scroll.y / 200.0).exp() * pinch);
            if factor != 1.0 {
                *self = self.about(self.under(window, point), factor);
            }
        }
        self.answer_box(ui, response, anchor);
    }

    fn answer_box(&mut self, ui: &Ui, response: &Response, anchor: &mut Option<Pos2>) {
        let secondary = egui::PointerButton::Secondary;
        let now = ui.input(|input| input.pointer.interact_pos());
        if response.drag_started_by(secondary) {
            *anchor = ui.input(|input| input.pointer.press_origin());
        }
        let (Some(start), Some(now)) = (*anchor, now) else {
            return;
        };
        let now = pos2(
            now.x.clamp(response.rect.left(), response.rect.right()),
            now.y.clamp(response.rect.top(), response.rect.bottom()),
        );
        if response.dragged_by(secondary) {
            let stroke = ui.visuals().selection.stroke;
            let kind = egui::StrokeKind::Inside;
            ui.painter().rect_stroke(Rect::from_two_pos(start, now), 0.0, stroke, kind);
        } else {
            *anchor = None;
            if start.distance(now) > 6.0 {
                let window = response.rect;
                *self = self.between(self.under(window, start), self.under(window, now));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zooming_leaves_the_point_under_the_pointer() {
        let window = Rect::from_min_size(pos2(10.0, 20.0), vec2(400.0, 200.0));
        let zoom = Zoom::whole(53_248, 16_384);
        let pointer = pos2(110.0, 170.0);
        let point = zoom.under(window, pointer);
        let near = zoom.about(point, 8.0);
        let after = near.under(window, pointer);
        assert!((after[0] - point[0]).abs() < 1e-6 && (after[1] - point[1]).abs() < 1e-6);
        assert!((near.extent[0] - 53_248.0 / 8.0).abs() < 1e-9);
    }

    #[test]
    fn the_part_stays_inside_the_plane_at_every_depth() {
        let zoom = Zoom::whole(100, 50).about([99.0, 49.0], 1e9);
        assert_eq!(zoom.extent, [4.0, 4.0], "four weights stay visible");
        let moved = zoom.moved([1e9, -1e9]);
        assert_eq!(moved.corner, [96.0, 0.0]);
        assert!(zoom.about([0.0, 0.0], 1e-9).is_whole());
        assert_eq!(Zoom::whole(2, 1).near([0.0, 0.0]).extent, [2.0, 1.0]);
    }

    #[test]
    fn places_and_points_are_inverse() {
        let window = Rect::from_min_size(pos2(0.0, 0.0), vec2(300.0, 300.0));
        let zoom = Zoom::whole(1000, 1000).between([100.0, 200.0], [400.0, 500.0]);
        let place = zoom.place(window, [250.0, 350.0], [1.0, 1.0]);
        let point = zoom.under(window, place.min);
        assert!((point[0] - 250.0).abs() < 1e-3 && (point[1] - 350.0).abs() < 1e-3);
    }
}

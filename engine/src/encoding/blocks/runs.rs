//! The weights of a block that share a scale: what their codes mean, and how a scale may move.

use half::f16;

use crate::encoding::blocks::{decode, pack};
use crate::encoding::{BlockType, IQ4_LEVELS};

/// Scale and origin of a run: ŵ = scale·level + origin, each a number that is stored for the run times a unit of the
/// block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockRun {
    /// What numbers of scale and origin are multiples of.
    units: [f32; 2],
    /// Those numbers, as they are stored.
    numbers: [f32; 2],
}

impl BlockRun {
    /// What a step of the level changes.
    pub fn scale(&self) -> f32 {
        self.units[0] * self.numbers[0]
    }

    /// The weight at level 0.
    pub fn origin(&self) -> f32 {
        self.units[1] * self.numbers[1]
    }
}

/// The levels of a code.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BlockLevels {
    /// The whole numbers between two, these among them.
    Whole(f32, f32),
    /// [`IQ4_LEVELS`].
    Uneven,
}

impl BlockType {
    /// Weights that share a scale.
    pub fn run(self) -> usize {
        match self {
            Self::Q2_K | Self::Q3_K | Self::Q6_K => 16,
            _ => 32,
        }
    }

    /// What codes stand for.
    pub fn levels(self) -> BlockLevels {
        match self {
            Self::Q2_K => BlockLevels::Whole(0.0, 3.0),
            Self::Q4_1 | Self::Q4_K => BlockLevels::Whole(0.0, 15.0),
            Self::Q5_1 | Self::Q5_K => BlockLevels::Whole(0.0, 31.0),
            Self::Q3_K => BlockLevels::Whole(-4.0, 3.0),
            Self::Q4_0 => BlockLevels::Whole(-8.0, 7.0),
            Self::Q5_0 => BlockLevels::Whole(-16.0, 15.0),
            Self::Q6_K => BlockLevels::Whole(-32.0, 31.0),
            Self::Q8_0 => BlockLevels::Whole(-128.0, 127.0),
            Self::IQ4_NL | Self::IQ4_XS => BlockLevels::Uneven,
        }
    }

    /// Whether runs have origins.
    pub fn has_origins(self) -> bool {
        matches!(self, Self::Q4_1 | Self::Q5_1 | Self::Q2_K | Self::Q4_K | Self::Q5_K)
    }

    /// The largest and smallest multiples of scales, and the largest of minimums, of a super-block.
    fn multiples(self) -> Option<((f32, f32), f32)> {
        match self {
            Self::Q2_K => Some(((0.0, 15.0), 15.0)),
            Self::Q4_K | Self::Q5_K => Some(((0.0, 63.0), 63.0)),
            Self::Q3_K | Self::IQ4_XS => Some(((-32.0, 31.0), 0.0)),
            Self::Q6_K => Some(((-128.0, 127.0), 0.0)),
            _ => None,
        }
    }

    /// The run with scale and origin as near to those given as they can be stored beside the units of its block, its
    /// scale `steps` steps of what is stored away from that. `None` where no scale but 0 can be, and for steps of
    /// numbers that are no multiples.
    pub fn near(self, run: BlockRun, [scale, origin]: [f64; 2], steps: i8) -> Option<BlockRun> {
        let number = |wanted: f64, unit: f32| {
            let number = wanted / f64::from(unit);
            if number.is_finite() { number } else { 0.0 }
        };
        let wanted = [number(scale, run.units[0]), number(origin, run.units[1])];
        let numbers = match self.multiples() {
            Some((scales, top)) => [
                (wanted[0].round_ties_even() as f32 + f32::from(steps)).clamp(scales.0, scales.1),
                (wanted[1].round_ties_even() as f32).clamp(0.0, top),
            ],
            None if steps != 0 => return None,
            None => {
                let limit = f16::MAX.to_f64();
                let half = |number: f64| f16::from_f64(number.clamp(-limit, limit)).to_f32();
                [half(wanted[0]), if self.has_origins() { half(wanted[1]) } else { 0.0 }]
            }
        };
        (run.units[0] != 0.0).then_some(BlockRun { numbers, ..run })
    }

    /// The runs of a block.
    ///
    /// # Panics
    /// If the block has not [`BlockType::bytes`] bytes.
    pub fn runs(self, block: &[u8]) -> Vec<BlockRun> {
        assert_eq!(block.len(), self.bytes(), "one block");
        let float = |at: usize| decode::float(block, at);
        let of = |units: [f32; 2], number: &dyn Fn(usize) -> (f32, f32)| {
            let run = |j: usize| BlockRun { units, numbers: number(j).into() };
            (0..self.weights() / self.run()).map(run).collect()
        };
        match self {
            Self::Q4_0 | Self::Q5_0 | Self::Q8_0 | Self::IQ4_NL => {
                of([1.0, 1.0], &|_| (float(0), 0.0))
            }
            Self::Q4_1 | Self::Q5_1 => of([1.0, 1.0], &|_| (float(0), float(2))),
            Self::Q2_K => of([float(80), -float(82)], &|j| {
                (f32::from(block[j] & 15), f32::from(block[j] >> 4))
            }),
            Self::Q4_K | Self::Q5_K => of([float(0), -float(2)], &|j| {
                let (scale, minimum) = decode::six_bits(&block[4..16], j);
                (f32::from(scale), f32::from(minimum))
            }),
            Self::Q3_K => of([float(108), 0.0], &|j| (decode::q3_scale(&block[96..108], j), 0.0)),
            Self::Q6_K => {
                of([float(208), 0.0], &|j| (f32::from(block[192 + j].cast_signed()), 0.0))
            }
            Self::IQ4_XS => of([float(0), 0.0], &|j| (decode::iq4_scale(&block[..8], j), 0.0)),
        }
    }

    /// Puts the runs of a block, made of [`BlockType::runs`] by [`BlockType::near`], in their place.
    ///
    /// # Panics
    /// If the block has not [`BlockType::bytes`] bytes.
    pub fn put_runs(self, runs: &[BlockRun], block: &mut [u8]) {
        assert_eq!(block.len(), self.bytes(), "one block");
        if self.multiples().is_some() {
            let whole = |run: &BlockRun| (run.numbers[0] as i8, run.numbers[1] as u8);
            pack::multiples(self, &runs.iter().map(whole).collect::<Vec<_>>(), block);
        } else if let [run] = runs {
            let mut put = |at: usize, number: f32| {
                block[at..at + 2].copy_from_slice(&f16::from_f32(number).to_le_bytes());
            };
            put(0, run.numbers[0]);
            if self.has_origins() {
                put(2, run.numbers[1]);
            }
        }
    }

    /// Puts the codes of levels in their place: one of [`BlockType::levels`] for each weight of a block.
    ///
    /// # Panics
    /// If there are not [`BlockType::weights`] levels, or not [`BlockType::bytes`] bytes.
    pub fn put_levels(self, levels: &[f32], block: &mut [u8]) {
        assert_eq!((levels.len(), block.len()), (self.weights(), self.bytes()), "one block");
        let code = |&level: &f32| match self.levels() {
            BlockLevels::Whole(low, _) => (level - low) as u8,
            BlockLevels::Uneven => {
                IQ4_LEVELS.iter().filter(|&&other| f32::from(other) < level).count() as u8
            }
        };
        pack::codes(self, &levels.iter().map(code).collect::<Vec<_>>(), block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::seeds::Random;

    /// Bytes at random with numbers of 16 bits that are finite.
    fn block(kind: BlockType, random: &mut Random) -> Vec<u8> {
        let mut block: Vec<u8> = (0..kind.bytes()).map(|_| (random.bits() % 256) as u8).collect();
        let floats: &[usize] = match kind {
            BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q4_K | BlockType::Q5_K => &[0, 2],
            BlockType::Q2_K => &[80, 82],
            BlockType::Q3_K => &[108],
            BlockType::Q6_K => &[208],
            _ => &[0],
        };
        for &at in floats {
            let number = f16::from_f64(random.normal() * 0.01);
            block[at..at + 2].copy_from_slice(&number.to_le_bytes());
        }
        block
    }

    #[test]
    fn runs_and_levels_say_what_a_block_decodes_to() {
        let mut random = Random::new(71);
        for kind in BlockType::ALL {
            for _ in 0..20 {
                let (mut made, levels) = (block(kind, &mut random), kind.levels());
                let level = |_| match levels {
                    BlockLevels::Whole(low, high) => {
                        low + (random.bits() % ((high - low) as u64 + 1)) as f32
                    }
                    BlockLevels::Uneven => f32::from(IQ4_LEVELS[(random.bits() % 16) as usize]),
                };
                let levels: Vec<f32> = (0..kind.weights()).map(level).collect();
                let runs = kind.runs(&made);
                kind.put_levels(&levels, &mut made);
                assert_eq!(kind.runs(&made), runs, "{kind}: codes lie beside scales");
                let mut decoded = vec![0.0; kind.weights()];
                kind.decode(&made, &mut decoded);
                for (i, (&level, &decoded)) in levels.iter().zip(&decoded).enumerate() {
                    let run = runs[i / kind.run()];
                    assert_eq!(run.scale() * level + run.origin(), decoded, "{kind} {i}");
                }
                // Runs of another block, brought over with their units.
                let mut other = made.clone();
                kind.put_runs(&runs, &mut other);
                assert_eq!(other, made, "{kind}");
            }
        }
    }

    #[test]
    fn a_run_moves_to_the_nearest_that_can_be_stored() {
        let mut random = Random::new(72);
        for kind in BlockType::ALL {
            let made = block(kind, &mut random);
            let runs = kind.runs(&made);
            let run = runs[0];
            let own = [f64::from(run.scale()), f64::from(run.origin())];
            assert_eq!(kind.near(run, own, 0), Some(run), "{kind}: its own");
            let far = kind.near(run, [1e9, -1e9], 0).unwrap();
            let mut moved = made.clone();
            kind.put_runs(&[&[far], &runs[1..]].concat(), &mut moved);
            assert_eq!(kind.runs(&moved)[0], far, "{kind}: what is stored is what was said");
            assert_eq!(kind.runs(&moved)[1..], runs[1..], "{kind}: the others stay");
        }
    }
}

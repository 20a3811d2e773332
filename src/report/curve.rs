//! Curves of bounded length from logs of any length.

use serde::Serialize;

/// Points of a curve at most. Longer logs are drawn by the mean and the range of neighbours.
pub const MOST_POINTS: usize = 1000;

/// Numbers beyond are not finite for all that can be drawn.
const LARGEST: f64 = 1e300;

/// Mean and range of one column over the reports of a point.
#[derive(Clone, Copy)]
struct Cell {
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
}

const EMPTY: Cell = Cell {
    count: 0,
    sum: 0.0,
    min: f64::INFINITY,
    max: f64::NEG_INFINITY,
};

impl Cell {
    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }
}

/// The reports of a point.
#[derive(Clone)]
struct Point {
    /// Where the last of them stands: iterations, epochs, images, seconds.
    at: [f64; 4],
    reports: u64,
    cells: Vec<Cell>,
}

/// A log's reports as curves, in memory that does not grow with the log: once there are twice [`MOST_POINTS`], neighbours
/// are put together.
pub struct Curves {
    names: &'static [&'static str],
    points: Vec<Point>,
    /// Reports of a full point.
    every: u64,
    /// Values of each column that were there and were not finite.
    broken: u64,
}

/// Curves as the page takes them, a column a name.
#[derive(Serialize)]
pub struct Drawn {
    /// Iterations, epochs, images seen and seconds of training at each point.
    pub step: Vec<f64>,
    pub epoch: Vec<f64>,
    pub images: Vec<f64>,
    pub seconds: Vec<f64>,
    /// The columns that the log has, in the order of the names.
    pub columns: Vec<Column>,
    /// Reports of a point: 1 where the log is drawn as it is.
    pub every: u64,
}

/// One column; `null` is a gap.
#[derive(Serialize)]
pub struct Column {
    pub name: &'static str,
    pub mean: Vec<Option<f64>>,
    /// Smallest and largest at each point; left out where a point is one report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<[Vec<Option<f64>>; 2]>,
}

impl Curves {
    /// Without reports; `names` are those of the columns.
    pub fn new(names: &'static [&'static str]) -> Self {
        Self {
            names,
            points: Vec::new(),
            every: 1,
            broken: 0,
        }
    }

    /// Adds a report at `at` (iterations, epochs, images, seconds). `values` are those of the columns: `None` where it
    /// has none, NaN where it was not finite.
    pub fn push(&mut self, at: [f64; 4], values: &[Option<f64>]) {
        let cells = values.iter().map(|value| match value {
            Some(v) if v.abs() <= LARGEST => Cell {
                count: 1,
                sum: *v,
                min: *v,
                max: *v,
            },
            Some(_) => {
                self.broken += 1;
                EMPTY
            }
            None => EMPTY,
        });
        let point = Point {
            at,
            reports: 1,
            cells: cells.collect(),
        };
        match self.points.last_mut() {
            Some(last) if last.reports < self.every => last.join(&point),
            _ => self.points.push(point),
        }
        if self.points.len() == 2 * MOST_POINTS {
            let pairs = self.points.chunks_exact(2).map(|pair| {
                let mut joined = pair[0].clone();
                joined.join(&pair[1]);
                joined
            });
            self.points = pairs.collect();
            self.every *= 2;
        }
    }

    /// How many values were there and were not finite.
    pub fn broken(&self) -> u64 {
        self.broken
    }

    /// What is drawn: at most [`MOST_POINTS`] points, and of the columns those with a value.
    pub fn drawn(mut self) -> Drawn {
        if self.points.len() > MOST_POINTS {
            let pairs = self.points.chunks(2).map(|pair| {
                let mut joined = pair[0].clone();
                if let Some(other) = pair.get(1) {
                    joined.join(other);
                }
                joined
            });
            self.points = pairs.collect();
            self.every *= 2;
        }
        let points = &self.points;
        let axis = |i: usize| points.iter().map(|point| point.at[i]).collect();
        let columns = self.names.iter().enumerate().filter_map(|(i, &name)| {
            let column = |value: fn(&Cell) -> f64| -> Vec<Option<f64>> {
                let cells = points.iter().map(|point| &point.cells[i]);
                cells.map(|c| (c.count > 0).then(|| value(c))).collect()
            };
            let some = points.iter().any(|point| point.cells[i].count > 0);
            some.then(|| Column {
                name,
                mean: column(|c| c.sum / c.count as f64),
                range: (self.every > 1).then(|| [column(|c| c.min), column(|c| c.max)]),
            })
        });
        Drawn {
            step: axis(0),
            epoch: axis(1),
            images: axis(2),
            seconds: axis(3),
            columns: columns.collect(),
            every: self.every,
        }
    }
}

impl Point {
    fn join(&mut self, after: &Self) {
        self.at = after.at;
        self.reports += after.reports;
        for (cell, other) in self.cells.iter_mut().zip(&after.cells) {
            cell.add(other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &[&str] = &["a", "b", "c"];

    fn curves(count: u64, value: impl Fn(u64) -> f64) -> Drawn {
        let mut curves = Curves::new(NAMES);
        for i in 1..=count {
            let b = (i % 2 == 0).then_some(f64::NAN);
            curves.push(
                [i as f64, 0.5 * i as f64, 3.0, 7.0],
                &[Some(value(i)), b, None],
            );
        }
        assert_eq!(curves.broken(), count / 2);
        curves.drawn()
    }

    #[test]
    fn a_short_log_is_drawn_as_it_is() {
        let drawn = curves(MOST_POINTS as u64, |i| 1.0 / i as f64);
        assert_eq!((drawn.every, drawn.step.len()), (1, MOST_POINTS));
        // A column without a number is left out.
        assert_eq!(drawn.columns.len(), 1);
        assert!(drawn.columns[0].range.is_none());
        assert_eq!(drawn.columns[0].mean[6], Some(1.0 / 7.0));
        assert_eq!((drawn.step[6], drawn.epoch[6]), (7.0, 3.5));
    }

    /// No extreme is lost, means are those of all reports, and the last report stands at its place, for every length.
    #[test]
    fn a_long_log_keeps_its_extremes() {
        for count in [1001, 1999, 2000, 2001, 8003, 100_000] {
            let value = |i: u64| {
                if i == 777 {
                    -50.0
                } else {
                    (i as f64 * 0.37).sin()
                }
            };
            let drawn = curves(count, value);
            assert!(drawn.step.len() <= MOST_POINTS && drawn.step.len() >= MOST_POINTS / 2);
            assert_eq!(drawn.step.last(), Some(&(count as f64)));
            assert!(drawn.step.windows(2).all(|pair| pair[0] < pair[1]));
            let column = &drawn.columns[0];
            let [min, max] = column.range.as_ref().unwrap();
            let (mut begin, mut total) = (1, 0.0);
            for (i, &end) in drawn.step.iter().enumerate() {
                let all: Vec<f64> = (begin..=end as u64).map(value).collect();
                assert!(all.len() as u64 <= drawn.every);
                let sum: f64 = all.iter().sum();
                assert!((column.mean[i].unwrap() - sum / all.len() as f64).abs() < 1e-12);
                assert_eq!(min[i], all.iter().copied().reduce(f64::min));
                assert_eq!(max[i], all.iter().copied().reduce(f64::max));
                total += sum;
                begin = end as u64 + 1;
            }
            assert!((total - (1..=count).map(value).sum::<f64>()).abs() < 1e-6);
        }
    }
}

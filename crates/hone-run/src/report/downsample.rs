//! Fewer points with the same outline.

/// Keeps the extremes of a long series: equal numbers of points fall into a bucket, each bucket gives its lowest and
/// its highest point. When all buckets are full, neighbours merge, so memory is bounded whatever comes.
#[derive(Debug, Clone)]
pub struct Downsampler {
    capacity: usize,
    bucket_points: usize,
    buckets: Vec<Bucket>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    low: (f64, f64),
    high: (f64, f64),
    points: usize,
    /// The line is interrupted before this bucket.
    gap: bool,
}

impl Bucket {
    fn merge(&mut self, other: &Self) {
        if other.low.1 < self.low.1 {
            self.low = other.low;
        }
        if other.high.1 > self.high.1 {
            self.high = other.high;
        }
        self.points += other.points;
    }
}

impl Downsampler {
    /// Gives at most `2 * capacity` points (and as many gaps).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(2),
            bucket_points: 1,
            buckets: Vec::new(),
        }
    }

    /// Adds a point. A `y` that is not finite interrupts the line.
    pub fn push(&mut self, x: f64, y: f64) {
        if !x.is_finite() {
            return;
        }
        if !y.is_finite() {
            // A bucket without points marks the gap until the next one comes.
            if self.buckets.last().is_some_and(|bucket| bucket.points > 0) {
                self.buckets.push(Bucket {
                    low: (x, y),
                    high: (x, y),
                    points: 0,
                    gap: true,
                });
            }
            return;
        }
        let fresh = Bucket {
            low: (x, y),
            high: (x, y),
            points: 1,
            gap: false,
        };
        match self.buckets.last_mut() {
            Some(last) if last.points == 0 => *last = Bucket { gap: true, ..fresh },
            Some(last) if last.points < self.bucket_points => last.merge(&fresh),
            _ => self.buckets.push(fresh),
        }
        if self.buckets.len() > self.capacity {
            self.halve();
        }
    }

    fn halve(&mut self) {
        self.bucket_points *= 2;
        let old = std::mem::take(&mut self.buckets);
        for pair in old.chunks(2) {
            let mut merged = pair[0];
            if let Some(second) = pair.get(1) {
                merged.merge(second);
            }
            self.buckets.push(merged);
        }
    }

    /// The points that are left, in order; a gap is a point whose `y` is NaN.
    #[must_use]
    pub fn points(&self) -> Vec<(f64, f64)> {
        let mut points = Vec::with_capacity(2 * self.buckets.len());
        for bucket in self.buckets.iter().filter(|bucket| bucket.points > 0) {
            if bucket.gap {
                points.push((bucket.low.0, f64::NAN));
            }
            let (first, second) = if bucket.low.0 <= bucket.high.0 {
                (bucket.low, bucket.high)
            } else {
                (bucket.high, bucket.low)
            };
            points.push(first);
            if first.0 != second.0 {
                points.push(second);
            }
        }
        points
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_series_pass_unchanged() {
        let mut sampler = Downsampler::new(100);
        let points: Vec<(f64, f64)> = (0..100).map(|x| (f64::from(x), f64::from(x * x % 17))).collect();
        points.iter().for_each(|(x, y)| sampler.push(*x, *y));
        assert_eq!(sampler.points(), points);
    }

    #[test]
    fn extremes_survive_and_memory_is_bounded() {
        let mut sampler = Downsampler::new(64);
        for x in 0..100_000 {
            let y = match x {
                12_345 => 50.0,
                77_777 => -50.0,
                _ => f64::from(x % 10),
            };
            sampler.push(f64::from(x), y);
            assert!(sampler.buckets.len() <= 64);
        }
        let points = sampler.points();
        assert!(points.len() <= 128 && points.len() > 60);
        assert!(points.contains(&(12_345.0, 50.0)) && points.contains(&(77_777.0, -50.0)));
        assert!(points.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn gaps_stay_gaps() {
        let mut sampler = Downsampler::new(10);
        for (x, y) in [
            (1.0, f64::NAN),
            (2.0, 5.0),
            (3.0, f64::INFINITY),
            (4.0, f64::NAN),
            (5.0, 6.0),
        ] {
            sampler.push(x, y);
        }
        let points = sampler.points();
        assert_eq!(points.len(), 3);
        assert_eq!((points[0], points[2]), ((2.0, 5.0), (5.0, 6.0)));
        assert!(points[1].1.is_nan());
    }
}

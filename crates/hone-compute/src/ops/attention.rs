//! Attention over the sequences of a layout.
//!
//! Keys and values are rounded once to the type of the cache, in training as in decoding, and read back from the same
//! pages, so that a query gives the same bits wherever it is computed.

use crate::backend::AttentionForward;
use crate::layout::{AttentionShape, Layout, SequenceCache};
use crate::tape::{Backward, Operation, Tape, Var};
use crate::tensor::Tensor;

/// Queries `[n, heads * head_dim]`, keys and values `[n, kv_heads * head_dim]`, keys after rotation.
pub struct AttentionInputs {
    /// Queries.
    pub q: Var,
    /// Keys.
    pub k: Var,
    /// Values.
    pub v: Var,
}

struct Attention {
    inputs: AttentionInputs,
    shape: AttentionShape,
    layout: Layout,
    out: std::sync::Arc<Tensor>,
    log_sum: Tensor,
    caches: Vec<SequenceCache>,
}

impl Tape<'_> {
    /// Attention within each whole sequence of the layout: `[n, heads * head_dim]`.
    pub fn attention(&mut self, inputs: AttentionInputs, shape: &AttentionShape, layout: &Layout) -> Var {
        let backend = self.engine.backend();
        let caches = self.filled_caches(shape, layout, (&inputs.k.value, &inputs.v.value));
        let record = self.must_record(&[&inputs.q, &inputs.k, &inputs.v], &[]);
        let read: Vec<_> = caches.iter().collect();
        let (out, log_sum) = backend.attention(shape, layout, &inputs.q.value, (&read, 0), record);
        let Some(log_sum) = log_sum else { return self.plain(out) };
        let out = std::sync::Arc::new(out);
        // The keys and values that the backward reads are those of the pages.
        let empty = || std::sync::Arc::new(self.engine.backend().empty(0, 0));
        let inputs = AttentionInputs {
            q: inputs.q,
            k: Var::kept(inputs.k.node, empty()),
            v: Var::kept(inputs.v.node, empty()),
        };
        let operation = Attention {
            inputs,
            shape: *shape,
            layout: layout.clone(),
            out: std::sync::Arc::clone(&out),
            log_sum,
            caches,
        };
        self.record_shared(vec![out], operation).swap_remove(0)
    }

    /// The same for the last rows of each sequence alone: `q` has the rows of `asked`, whose spans end where those of
    /// `layout` do, `k` and `v` those of `layout`. Caches as in [`Self::attention_cached`]. Not for training.
    pub fn attention_of_last(
        &mut self,
        inputs: AttentionInputs,
        shape: &AttentionShape,
        (layout, asked): (&Layout, &Layout),
        caches: Option<(&mut [&mut SequenceCache], usize)>,
    ) -> Var {
        assert!(!self.is_recording(), "attention of the last rows is for inference");
        let backend = self.engine.backend();
        let kv = (&*inputs.k.value, &*inputs.v.value);
        let (out, _) = match caches {
            Some((caches, layer)) => {
                assert!(layout.is_plain(), "a cache a sequence");
                backend.append(caches, layer, layout, kv);
                let read: Vec<_> = caches.iter().map(|cache| &**cache).collect();
                backend.attention(shape, asked, &inputs.q.value, (&read, layer), false)
            }
            None => {
                let own = self.filled_caches(shape, layout, kv);
                let read: Vec<_> = own.iter().collect();
                backend.attention(shape, asked, &inputs.q.value, (&read, 0), false)
            }
        };
        self.plain(out)
    }

    /// A cache of one layer for each span; one that goes on from another begins with what that one has.
    fn filled_caches(&self, shape: &AttentionShape, layout: &Layout, kv: (&Tensor, &Tensor)) -> Vec<SequenceCache> {
        let backend = self.engine.backend();
        let spans = layout.spans();
        let new = |_| SequenceCache::new(self.engine, 1, shape);
        let mut caches: Vec<_> = spans.iter().map(new).collect();
        let append = |caches: &mut [SequenceCache], branches: bool| {
            let layout = layout.only(|span| span.after.is_some() == branches);
            let all = caches.iter_mut().zip(spans);
            let mut those: Vec<_> = all.filter(|(_, span)| span.after.is_some() == branches).collect();
            let mut those: Vec<_> = those.iter_mut().map(|(cache, _)| &mut **cache).collect();
            backend.append(&mut those, 0, &layout, kv);
        };
        append(&mut caches, false);
        if !layout.is_plain() {
            for (i, span) in spans.iter().enumerate() {
                if let Some(after) = span.after {
                    caches[i] = caches[after].clone();
                }
            }
            append(&mut caches, true);
        }
        caches
    }

    /// The same with the positions before each span read from its cache (one a span, in order), to which the new ones
    /// are appended in `layer`. Not for training.
    pub fn attention_cached(
        &mut self,
        inputs: AttentionInputs,
        shape: &AttentionShape,
        layout: &Layout,
        caches: (&mut [&mut SequenceCache], usize),
    ) -> Var {
        assert!(!self.is_recording(), "a cache is for inference");
        assert!(layout.is_plain(), "a cache a sequence");
        let (caches, layer) = caches;
        let backend = self.engine.backend();
        backend.append(caches, layer, layout, (&inputs.k.value, &inputs.v.value));
        let read: Vec<&SequenceCache> = caches.iter().map(|cache| &**cache).collect();
        let (out, _) = backend.attention(shape, layout, &inputs.q.value, (&read, layer), false);
        self.plain(out)
    }
}

impl Operation for Attention {
    fn backward(self: Box<Self>, context: &mut Backward<'_>, mut upstream: Vec<Option<Tensor>>) {
        let Some(dout) = upstream.remove(0) else { return };
        let forward = AttentionForward {
            shape: &self.shape,
            layout: &self.layout,
            q: &self.inputs.q.value,
            out: &self.out,
            log_sum: &self.log_sum,
            caches: &self.caches,
        };
        let gradients = context.engine.backend().attention_backward(&forward, &dout);
        context.add(&self.inputs.q, gradients.dq);
        context.add(&self.inputs.k, gradients.dk);
        context.add(&self.inputs.v, gradients.dv);
    }
}

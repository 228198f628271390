//! Updates of models on disk against each other.

use std::path::{Path, PathBuf};

use hone_compute::{Engine, EngineOptions, Isa, Precision};
use hone_eval::{Error, update_similarity};
use hone_model::{Dtype, NewModel, Transformer};

fn engine() -> Engine {
    Engine::new(&EngineOptions {
        isa: Some(Isa::Portable),
        precision: Precision::F32,
        threads: Some(1),
    })
    .unwrap()
}

fn new(family: &str, layers: usize) -> NewModel {
    NewModel {
        family: family.into(),
        width: 16,
        layers,
        heads: 2,
        kv_heads: None,
        head_dim: None,
        intermediate: Some(32),
        context: 32,
        tied: true,
        rope_theta: 10_000.0,
    }
}

fn save(engine: &Engine, model: &Transformer, dir: &Path) -> PathBuf {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("config.json"), model.config_json(&serde_json::Map::new())).unwrap();
    let mut file = std::fs::File::create(dir.join("model.safetensors")).unwrap();
    model.write_weights(engine, Dtype::F32, &mut file).unwrap();
    dir.to_path_buf()
}

/// Adds to every weight whose name contains `place` a multiple of a pattern of its own.
fn moved(engine: &Engine, start: &Transformer, place: &str, by: f32) -> Transformer {
    let mut model = start.duplicate();
    let ids: Vec<_> = model.parameters().iter().map(|(id, _)| id).collect();
    for id in ids {
        let parameter = model.parameters().get(id);
        if !parameter.name().contains(place) {
            continue;
        }
        let mut numbers = engine.read(parameter.value());
        for (i, number) in numbers.iter_mut().enumerate() {
            *number += by * (((i * 7 + 3) % 5) as f32 - 2.0);
        }
        model.parameters_mut().set(engine, id, &numbers);
    }
    model
}

#[test]
fn updates_are_compared_layer_by_layer() {
    let engine = engine();
    for family in ["llama", "gpt2"] {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let start = Transformer::random(&engine, new(family, 2).architecture(20).unwrap(), 1);
        let start_dir = save(&engine, &start, &at("start"));
        let query = moved(&engine, &start, "layers.0.self_attn.q_proj", 0.01);
        let models = [
            save(&engine, &query, &at("a")),
            // Twice as far in the same direction
            save(
                &engine,
                &moved(&engine, &start, "layers.0.self_attn.q_proj", 0.02),
                &at("b"),
            ),
            // The opposite direction, and another weight as well
            save(
                &engine,
                &moved(
                    &engine,
                    &moved(&engine, &start, "layers.0.self_attn.q_proj", -0.01),
                    "layers.1.mlp.down_proj.weight",
                    0.01,
                ),
                &at("c"),
            ),
        ];
        let found = update_similarity(&start_dir, &models).unwrap();
        let part = |block, kind: &str| {
            let part = found.parts.iter().find(|p| p.block == block && p.kind == kind);
            &part.unwrap().similarity
        };
        let near = |cosine: Option<f64>, expected: f64| (cosine.unwrap() - expected).abs() < 1e-4;
        let query = part(Some(0), "q_proj");
        assert!(
            near(query.cosines[0][1], 1.0) && near(query.cosines[0][2], -1.0),
            "{family}: {query:?}"
        );
        assert!((query.norms[1] / query.norms[0] - 2.0).abs() < 1e-3);
        // Only the last moved there, so there is no angle to it
        let down = part(Some(1), "down_proj");
        assert_eq!((down.norms[0], down.cosines[0][2]), (0.0, None));
        assert!(down.norms[2] > 0.0);
        assert_eq!(part(None, "embedding").norms, [0.0; 3]);
        // In all: the part of the last update that lies along the first, over its whole length
        let length = (query.norms[2] * query.norms[2] + down.norms[2] * down.norms[2]).sqrt();
        assert!((found.all.norms[2] - length).abs() < 1e-9);
        assert!(near(found.all.cosines[0][2], -query.norms[2] / length));
        assert_eq!(update_similarity(&start_dir, &models).unwrap(), found);
    }
}

#[test]
fn models_of_another_shape_are_refused_by_name() {
    let engine = engine();
    let dir = tempfile::tempdir().unwrap();
    let model =
        |layers, vocabulary| Transformer::random(&engine, new("llama", layers).architecture(vocabulary).unwrap(), 1);
    let start = save(&engine, &model(2, 20), &dir.path().join("start"));
    for (other, message) in [
        (model(1, 20), "has no `layers.1."),
        (
            model(2, 24),
            "`embed_tokens.weight` has the shape [24, 16], the start's [20, 16]",
        ),
        (model(3, 20), "which the start lacks"),
    ] {
        let other = save(&engine, &other, &dir.path().join("other"));
        match update_similarity(&start, &[other]) {
            Err(error @ Error::OtherWeights { .. }) => assert!(error.to_string().contains(message), "{error}"),
            found => panic!("{message}: {found:?}"),
        }
    }
    assert!(matches!(update_similarity(&start, &[]), Err(Error::Empty { .. })));
    let absent = update_similarity(&start, &[dir.path().join("nowhere")]);
    assert!(matches!(absent, Err(Error::Model(_))), "{absent:?}");
}

//! Which model of a run is meant where none is named: one rule for every command.

use crate::eval::results::Role;
use crate::recipe::{ModelConfig, Recipe};

/// The last model of the recipe that writes text (not a judge, codec or classifier); where all are of those, the last one.
pub fn main_model(recipe: &Recipe) -> &str {
    let writes = |(name, model): &(&String, &ModelConfig)| {
        !matches!(recipe.role(name, model), Role::Judge | Role::Codec | Role::Classifier)
    };
    let last = recipe.model.iter().rev().find(writes).or(recipe.model.last());
    last.map_or("", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{builtin, load};

    #[test]
    fn of_every_built_in_recipe_it_is_a_model_that_writes_text() {
        for name in builtin::names() {
            let recipe = load(name, &[]).unwrap().recipe;
            let role = recipe.role(main_model(&recipe), &recipe.model[main_model(&recipe)]);
            assert!(matches!(role, Role::Ar | Role::Teacher | Role::Student), "{name}: {role:?}");
        }
        assert_eq!(main_model(&load("shakespeare", &[]).unwrap().recipe), "student");
    }
}

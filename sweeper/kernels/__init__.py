"""Operations of the training step that are one kernel on a GPU: dropout, rotary embeddings and gates."""

"""What lies on the disk whole or not at all: tensors, images as bytes, the atomic writer, the folder lock."""

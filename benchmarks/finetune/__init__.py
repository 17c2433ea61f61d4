"""Fine-tuning a pre-trained model by this library's adapters and by PEFT's, at equal size."""

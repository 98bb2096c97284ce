terraform {
  required_version = ">= 1.7"
  required_providers {
    aws = { source = "hashicorp/aws", version = "~> 5.100" }
  }
  # State holds no secret (the database's password is made and kept by AWS), yet whoever writes it rules the stack:
  # `terraform init -backend-config=bucket=... -backend-config=key=fewstep -backend-config=region=...`
  backend "s3" {}
}

provider "aws" {
  region = var.region
  default_tags { tags = { project = "fewstep", stack = var.name } }
}
